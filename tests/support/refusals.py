"""What the update server's functions refuse."""

from collections.abc import Callable

import pytest

from osbuild.fleet.refusal import Refused


def refused(call: Callable[[], object]) -> int:
    """Return the HTTP status with which `call` is refused."""
    with pytest.raises(Refused) as caught:
        call()
    return caught.value.status
