"""Locks between processes that run tests, so that two of them don't make the same build."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from osbuild.host import paths
from osbuild.shared.locks import hold_file_lock

FOLDER = paths.PROJECT / "build/test-locks"


@contextmanager
def hold_lock(name: str, *, folder: Path = FOLDER) -> Iterator[None]:
    """Wait for the lock `name` of `folder`, and hold it. The same process must not request it again meanwhile."""
    folder.mkdir(parents=True, exist_ok=True)
    with hold_file_lock(folder / f"{name}.lock", create=0o666):
        yield
