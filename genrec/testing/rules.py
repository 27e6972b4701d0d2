"""How a broken rule is reported."""


def require(holds: bool, rule: str) -> None:
    """Raise if a rule does not hold, also where Python leaves out ``assert`` statements.

    Raises:
        AssertionError: With the rule.
    """
    if not holds:
        raise AssertionError(rule)
