"""Files of a key folder: private, written whole or not at all, and on the disk when the call returns."""

import re
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from osbuild.host import output
from osbuild.shared.errors import Error
from osbuild.shared.files import read_file
from osbuild.shared.locks import lock_path

PRIVATE, PUBLIC = 0o600, 0o644
LOCK = ".lock"
OURS = re.compile(r"(root|signer)-\d+\.(crt|crl|key)")


def write_key_file(path: Path, data: bytes, *, mode: int) -> None:
    """Replace `path` by a file with `data`. What is there stays as it is if anything fails. Raises `Error`."""
    output.write_output(path, data, mode=mode)


def check_key_folder(path: Path) -> None:
    """Raises `Error` where others than the owner of a folder may write to it: they could replace the keys."""
    if stat.S_IMODE(path.stat().st_mode) & 0o022:
        hint = f"chmod go-w {path}, or name another folder, which will be made"
        raise Error("others may write to this folder, and could replace the keys in it", where=str(path), hint=hint)


def check_only_keys(path: Path) -> None:
    """Raises `Error` where the folder `path` exists and has other files than keys, as /root has for `keys init /`."""
    if path.is_dir() and any(not OURS.fullmatch(each.name) for each in path.iterdir()):
        hint = "name a new folder for the keys, or another one for those of the roots with --root-keys"
        raise Error("the roots' keys do not belong into this folder: it has other files", where=str(path), hint=hint)


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

    If the block fails, the keys that it added to `folder` and the folders `more` are removed, and folders that it made.
    Raises `Error`.
    """
    with ExitStack() as stack:
        for place in (folder, *more):
            stack.enter_context(output.new_folder(place, mode=0o700))
            check_key_folder(place)
        is_new = not (folder / LOCK).exists()
        try:
            stack.enter_context(lock_path(folder / LOCK, create=PRIVATE))
        except OSError as error:
            raise output.output_error(folder, error) from error
        before = {path for place in (folder, *more) for path in place.iterdir()}
        try:
            yield
        except BaseException:
            for path in [path for place in (*more, folder) for path in place.iterdir()]:
                if path not in before and OURS.fullmatch(path.name):
                    output.discard_file(path)
            if is_new:
                output.discard_file(folder / LOCK)
            raise
