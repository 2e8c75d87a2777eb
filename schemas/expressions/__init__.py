"""CEL over JSON: conditions, values and the `{{ }}` of templates, parsed by celpy, run as closures."""
