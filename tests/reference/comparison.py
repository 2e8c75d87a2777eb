"""What the product did, held against what the reference says may happen."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.reference.records import Execution, Result, as_json


@dataclass
class ProductResult:
    """One run as a driver saw it. None: the driver did not look, and it is not compared.

    `executions`: one per token that was routed (a task that was retried is one, with its attempts), made with
    `execution`. `output` is looked at where `outputs` is. `loop_counts`: loop -> current_iteration.
    `condition_errors`: (node, iteration) -> how many.
    """

    status: str
    executions: Sequence[Execution]
    outputs: dict[str, Any] | None = None
    output: Any = None
    error_node: str | None = None
    error_class: str | None = None
    loop_counts: dict[str, int] | None = None
    condition_errors: dict[tuple[str, int], int] | None = None


def execution(
    node: str, iteration: int, output: Any, result: Any, *, args: Any = None, error_class: str | None = None,
    attempts: int = 1, path: str = "",
) -> Execution:  # fmt: skip
    """An Execution from plain values; of a failed one, `error_class` and no result."""
    done = result if error_class is None else {"error": error_class}
    rendered = None if args is None else as_json(args)
    return Execution(node, iteration, as_json(output), rendered, as_json(done), attempts, path)


def compare(judged: Result, product: ProductResult) -> list[str]:
    """The differences between a `judge`d run and the product's, in words; an empty list if there are none. One that
    was cancelled has done nothing that it would not have done."""
    if judged.ambiguous:
        return []
    cancelled = product.status == "CANCELLED"
    if product.status != judged.status and not cancelled:
        return [f"status: {product.status}, and not {judged.status}"]
    unseen = {one.node for one in product.executions if one.args is None}
    done, certain, possible = (
        Counter(one._replace(args=None) if one.node in unseen else one for one in executions)
        for executions in (product.executions, judged.trace, [*judged.trace, *judged.extra])
    )
    differences = [f"executed {many} times too many: {one}" for one, many in (done - possible).items()]
    if cancelled:
        return differences
    if judged.status == "FAILED":
        error = (product.error_node, product.error_class)
        if error not in judged.failures:
            differences.append(f"error: {error}, and none of {sorted(judged.failures)}")
        return differences
    differences += [f"executed {many} times too few: {one}" for one, many in (certain - done).items()]
    errors = dict(judged.condition_errors)
    pairs = [
        ("loop_counts", without_zeros(product.loop_counts), judged.loop_counts),
        ("condition_errors", None if judged.extra else without_zeros(product.condition_errors), errors),
        ("outputs", product.outputs, judged.outputs),
    ]
    pairs = [pair for pair in pairs if pair[1] is not None]
    if product.outputs is not None:
        pairs.append(("output", product.output, judged.output))
    return differences + [
        f"{name}: {found}, and not {expected}"
        for name, found, expected in pairs
        if repr(ordered(found)) != repr(ordered(expected))
    ]


def ordered(value: Any) -> Any:
    """The same value with its keys in order, so that `repr` tells `1` from `true`."""
    if isinstance(value, dict):
        return {key: ordered(value[key]) for key in sorted(value)}
    return [ordered(item) for item in value] if isinstance(value, list) else value


def without_zeros(counts: dict[Any, int] | None) -> dict[Any, int] | None:
    return None if counts is None else {what: count for what, count in counts.items() if count}
