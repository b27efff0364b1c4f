"""Locks between processes that run tests: two of them don't make the same build, and nothing disturbs a measurement."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from osbuild.host import paths
from osbuild.shared.locks import hold_file_lock

FOLDER = paths.PROJECT / "build/test-locks"


@contextmanager
def hold_lock(name: str, *, folder: Path = FOLDER, shared: bool = False) -> Iterator[None]:
    """Wait for the lock `name` of `folder`, and hold it. The same process must not request it again meanwhile."""
    folder.mkdir(parents=True, exist_ok=True)
    with hold_file_lock(folder / f"{name}.lock", shared=shared, create=0o666):
        yield


@contextmanager
def hold_turn(*, alone: bool, folder: Path = FOLDER) -> Iterator[None]:
    """Hold the right to run one test. With `alone`, wait until no other process runs a test, and let none begin."""
    with ExitStack() as stack:
        # A test that waits to run alone keeps this lock, or other processes would begin one test after the other.
        with hold_lock("next-turn", folder=folder):
            stack.enter_context(hold_lock("turn", folder=folder, shared=not alone))
        yield
