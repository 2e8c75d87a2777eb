"""What is asked of a plan and can not be had."""


class PlanFault(ValueError):
    """An option that does not fit the workflow, or a plan that has no answer; the text says which, and what to do."""
