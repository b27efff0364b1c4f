"""How many examples a test with generated input runs."""

import os

VARIABLE = "EDGE_FUZZ"
SHARE = 5
LEAST = 10


def examples(number: int, *, share: int = SHARE, least: int = LEAST) -> int:
    """Return the number of examples of a test that runs `number` in `make test-all`.

    EDGE_FUZZ=all gives `number`, and EDGE_FUZZ=10000 gives 10000. Without it, as in `make test`, this is one of `share`
    examples, and at least `least`. Examples are drawn anew in every run, so many runs cover what one run leaves out.
    """
    value = os.environ.get(VARIABLE, "")
    if value:
        return number if value == "all" else int(value)
    return min(number, max(least, number // share))
