"""Files of a key folder: private, written whole or not at all, and on the disk when the call returns."""

import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from osbuild.host import output
from osbuild.shared.errors import Error
from osbuild.shared.files import read_file
from osbuild.shared.locks import lock_path

PRIVATE, PUBLIC = 0o600, 0o644


def write_key_file(path: Path, data: bytes, *, mode: int) -> None:
    """Replace `path` by a file with `data`. What is there stays as it is if anything fails. Raises `Error`."""
    output.write_output(path, data, mode=mode)


def make_key_folder(path: Path) -> None:
    """A folder for private keys: a new one is private, and an existing one keeps its mode.

    Raises `Error` where others than its owner may write to it: they could replace the keys.
    """
    output.make_folder(path, mode=0o700)
    if stat.S_IMODE(path.stat().st_mode) & 0o022:
        hint = f"chmod go-w {path}, or name another folder, which will be made"
        raise Error("others may write to this folder, and could replace the keys in it", where=str(path), hint=hint)


def read_key_file(path: Path, what: str, hint: str) -> bytes:
    """The bytes of a file; `what` and `hint` are for the `Error` where it can't be read."""
    try:
        return read_file(path)
    except FileNotFoundError as error:
        raise Error(f"{what} is not there", where=str(path), hint=hint) from error
    except OSError as error:
        raise Error(f"{what} cannot be read: {error.strerror}", where=str(path), hint=hint) from error


def check_private(path: Path) -> None:
    """Raises `Error` where others than the owner may read or change `path`."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        hint = f"chmod 600 {path}, and think about who may have read it: `edge-osbuild keys rotate` makes a new one"
        raise Error(f"others may use this private key: its mode is {mode:04o}", where=str(path), hint=hint)


@contextmanager
def key_folder_lock(folder: Path, *more: Path) -> Iterator[None]:
    """Hold a lock, so that two processes don't change the keys in `folder` at the same time.

    If the block fails, files that it added to `folder` and the folders `more` are removed. Raises `Error`.
    """
    make_key_folder(folder)
    with ExitStack() as held:
        try:
            held.enter_context(lock_path(folder / ".lock", create=PRIVATE))
        except OSError as error:
            raise output.output_error(folder, error) from error
        before = {path for place in (folder, *more) if place.is_dir() for path in place.iterdir()}
        try:
            yield
        except BaseException:
            for path in [path for place in (*more, folder) if place.is_dir() for path in place.iterdir()]:
                if path not in before and path.is_file():
                    output.discard_file(path)
            raise
