"""How an expression fails: refused when submitted, in error when evaluated, unusable in a template."""

from __future__ import annotations


class ExpressionError(ValueError):
    """An expression or template that is refused when it is submitted.

    code: kebab-case, one of `syntax`, `too-long`, `too-deep`, `unknown-variable`, `unknown-function`,
    `wrong-arguments`, `bad-pattern`, `unsupported`, `unclosed` (a template).
    position: offset into `expression`, or None. pointer: JSON pointer to the string inside a templated value.
    """

    def __init__(
        self, code: str, message: str, expression: str = "", position: int | None = None, pointer: str = ""
    ) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.expression = expression
        self.position = position
        self.pointer = pointer

    def __str__(self) -> str:
        at = "" if self.position is None else f" (at character {self.position + 1})"
        return f"{self.message}{at}"


class EvaluationError(ValueError):
    """An expression that has no value for these variables.

    code: kebab-case, one of `no-such-variable`, `no-such-field`, `no-such-overload`, `index-out-of-range`,
    `division-by-zero`, `overflow`, `out-of-range`, `bad-conversion`, `bad-pattern`, `duplicate-key`,
    `budget`, `too-deep`, `not-a-bool`, `not-json`. message: short; never shows a value of the context.
    """

    def __init__(self, code: str, message: str, expression: str = "") -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.expression = expression

    def __str__(self) -> str:
        return self.message


class TemplateError(ValueError):
    """A template that can not be rendered: permanent, class `template`.

    expression: the text inside the `{{ }}` at fault. reason: one sentence. code: that of the EvaluationError,
    or `null` (the expression gave null), `too-large` (the text is over its limit).
    """

    error_class = "template"

    def __init__(self, expression: str, reason: str, code: str) -> None:
        super().__init__(expression, reason, code)
        self.expression = expression
        self.reason = reason
        self.code = code

    def __str__(self) -> str:
        return f"{{{{ {self.expression} }}}}: {self.reason}"
