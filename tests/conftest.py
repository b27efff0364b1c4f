"""What all tests share."""

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

# A shell that runs a job in the background has it ignore Ctrl-C, and so would every program that is tested.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says how busy this machine is, and nothing of what is tested.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """The umask of this process is the same for each test: some change it, as does `edge-osbuild build`."""
    before = os.umask(0o022)
    yield
    os.umask(before)
