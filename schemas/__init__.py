"""Pure shapes and rules, without I/O: workflow, IR, expressions, messages, events and their fold, key names."""
