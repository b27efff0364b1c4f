"""Scratch folders. A process locks its folder, so the folder of a killed process can be recognised and removed.

Process numbers cannot identify the owner, because another container may share the parent folder.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from osbuild.host import log
from osbuild.shared.errors import Error
from osbuild.shared.locks import is_at, lock_descriptor

LARGE = "/var/tmp"  # where large files may be (file-hierarchy(7))
# Other programs use these folders too. Only folders with exactly this name are ours; mkdtemp() adds eight characters.
TEMPORARY = ".edge-osbuild-{purpose}-"
ANY_SUFFIX = "?" * 8


@contextmanager
def scratch_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Create an empty folder PREFIXxxxxxxxx in `parent`, which is removed at the end. Raises `OSError`."""
    descriptor, path = make_locked(parent, prefix)
    try:
        yield path
    finally:
        try:
            remove_tree(path)
        except (KeyboardInterrupt, SystemExit):  # a signal interrupted the removal
            remove_tree(path)
            raise
        finally:
            os.close(descriptor)


@contextmanager
def temporary_folder(purpose: str) -> Iterator[Path]:
    """Create an empty folder in $TMPDIR or /var/tmp that only its owner can read. It is removed at the end.

    First, folders that killed commands have left for the same purpose are removed. Raises `Error`.
    """
    parent, prefix = Path(os.environ.get("TMPDIR") or LARGE).absolute(), TEMPORARY.format(purpose=purpose)
    with ExitStack() as stack:
        try:
            remove_leftovers(parent, prefix + ANY_SUFFIX)
            path = stack.enter_context(scratch_folder(parent, prefix))
        except OSError as error:
            reason, hint = error.strerror or str(error), "make room there, or set TMPDIR to another folder"
            raise Error(f"no temporary folder can be made: {reason}", where=str(parent), hint=hint) from error
        yield path


def make_locked(parent: Path, prefix: str) -> tuple[int, Path]:
    """Make a folder and lock it; the descriptor that holds the lock, and the folder."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        with suppress(FileNotFoundError):  # another process has removed it before it was locked
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            lock_descriptor(descriptor)
            if is_at(descriptor, path):
                return descriptor, path
            os.close(descriptor)


def remove_leftovers(parent: Path, pattern: str) -> None:
    """Remove the scratch folders of this user that killed processes have left in `parent`, by a pattern of names.

    One that cannot be removed is a warning.
    """
    for path in parent.glob(pattern):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:  # gone, of another user, or no folder
            continue
        try:
            lock_descriptor(descriptor, patience=0)
            if os.fstat(descriptor).st_uid == os.geteuid():
                remove_tree(path)
        except (BlockingIOError, FileNotFoundError):  # in use, or another process is removing it
            pass
        except OSError as error:
            log.warn(f"{path} was left by a killed command, and cannot be removed: {error.strerror or error}")
        finally:
            os.close(descriptor)


def remove_tree(path: Path) -> None:
    """Delete a file or folder. Raises `OSError` before it deletes anything if a file system is mounted inside."""
    if not os.path.lexists(path):
        return
    if path.is_symlink() or not path.is_dir():
        path.unlink()
        return
    device = path.stat().st_dev
    for base, folders, _ in os.walk(path):
        for name in folders:
            inner = Path(base, name)
            if not inner.is_symlink() and inner.stat().st_dev != device:
                raise OSError(f"{inner} is a mount point: not deleting {path}")
    shutil.rmtree(path)
