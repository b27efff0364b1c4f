"""Files of a key folder. They are private, and each one is replaced atomically."""

import re
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from osbuild.host import output
from osbuild.shared.errors import Error
from osbuild.shared.files import read_file
from osbuild.shared.locks import hold_file_lock

PRIVATE, PUBLIC = 0o600, 0o644
OTHERS = 0o077  # mode bits of others than the owner
LOCK = ".lock"
OURS = re.compile(r"(root|signer)-\d+\.(crt|crl|key)")


def write_key_file(path: Path, data: bytes, *, mode: int) -> None:
    """Write `data` to `path` atomically. Raises `Error`, and then leaves an older file unchanged."""
    output.write_output(path, data, mode=mode)


def check_key_folder(path: Path) -> None:
    """Raise `Error` if users other than its owner may write to a folder, because they could replace the keys."""
    if stat.S_IMODE(path.stat().st_mode) & 0o022:
        hint = f"chmod go-w {path}, or name another folder, which will be created"
        raise Error(
            "other users may write to this folder, and could replace the keys in it", where=str(path), hint=hint
        )


def check_only_keys(path: Path) -> None:
    """Raise `Error` if the folder `path` exists and has files other than keys, like /root with `keys init /`."""
    if path.is_dir() and any(not OURS.fullmatch(file.name) for file in path.iterdir()):
        hint = "name a new folder for the keys, or another folder for the roots' keys with --root-keys"
        raise Error("this folder has other files, so the roots' keys are not stored in it", where=str(path), hint=hint)


def read_key_file(path: Path, what: str, hint: str) -> bytes:
    """Return the bytes of a file. Raises `Error` with `hint` if it can't be read; `what` describes the file."""
    try:
        return read_file(path)
    except FileNotFoundError as error:
        raise Error(f"{what} does not exist", where=str(path), hint=hint) from error
    except OSError as error:
        raise Error(f"{what} cannot be read: {error.strerror}", where=str(path), hint=hint) from error


def check_private(path: Path) -> None:
    """Raise `Error` if users other than the owner may read or change `path`."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & OTHERS:
        hint = f"chmod 600 {path}; if someone may have read the key, replace it with `edge-osbuild keys rotate`"
        raise Error(f"other users may use this private key: its mode is {mode:04o}", where=str(path), hint=hint)


@contextmanager
def key_folder_lock(folder: Path, *more: Path) -> Iterator[None]:
    """Hold a lock, so that two processes don't change the keys in `folder` at the same time.

    If the block fails, the keys that it added to `folder` and to the folders `more`, and folders that it created, are
    removed. Raises `Error`.
    """
    with ExitStack() as stack:
        for parent in (folder, *more):
            stack.enter_context(output.new_folder(parent, mode=0o700))
            check_key_folder(parent)
        is_new = not (folder / LOCK).exists()
        try:
            stack.enter_context(hold_file_lock(folder / LOCK, create=PRIVATE))
        except OSError as error:
            raise output.output_error(folder, error) from error
        before = {path for parent in (folder, *more) for path in parent.iterdir()}
        try:
            yield
        except BaseException:
            for path in [path for parent in (*more, folder) for path in parent.iterdir()]:
                if path not in before and OURS.fullmatch(path.name):
                    output.discard_file(path)
            if is_new:
                output.discard_file(folder / LOCK)
            raise
