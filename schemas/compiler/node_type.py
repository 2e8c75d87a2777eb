"""A node type: what a node of it may have in its config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from schemas.compiler.survey import Check, Fields, Place, check_fields


@dataclass(frozen=True, slots=True)
class NodeType:
    """config: its fields. together: what else they must be to each other; looks at the whole config, and only at one
    that is an object. own_edges: its targets stand in `edges`, not in its config."""

    config: Fields
    together: Check | None = None
    own_edges: bool = True

    def check(self, name: str) -> Check:
        """The check of a node's config; `name` is that of the type."""
        holder = f"the config of {'an' if name[0] in 'aeiou' else 'a'} {name}"

        def check(place: Place, value: Any) -> None:
            if check_fields(place, value, self.config, holder) and self.together:
                self.together(place, value)

        return check


def one_of_fields(place: Place, config: Mapping[str, Any], *names: str) -> None:
    """Refuses a config that has none of the fields, or more than one."""
    given = [name for name in names if name in config]
    listed = " or ".join(f"`{name}`" for name in names)
    if not given:
        place.refuse("missing-field", f"{place.name} must have {listed}.")
    for name in given[1:]:
        place.at(name).refuse("exclusive-fields", f"Of {listed} only one can be given; `{given[0]}` is there too.")


def needs_field(place: Place, config: Mapping[str, Any], name: str, needed: str) -> None:
    """Refuses a field that means nothing without another."""
    if name in config and needed not in config:
        place.at(name).refuse("needs-field", f"`{name}` means nothing without `{needed}`.")
