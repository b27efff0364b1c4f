"""Output files of a command. All of them replace older files together, or the older files stay unchanged."""

import errno
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from osbuild.host import sparse
from osbuild.host.scratch import ANY_SUFFIX, remove_leftovers, scratch_folder
from osbuild.shared.errors import Error
from osbuild.shared.files import create_file, open_new, sync_path

SCRATCH = ".edge-osbuild-partial-"  # how the names of scratch folders beside outputs begin
KINDS = (
    (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a FIFO"), (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a character device"), (stat.S_ISBLK, "a block device"),
)  # fmt: skip


def file_kind(mode: int) -> str | None:
    """Return the kind of a file with `st_mode` `mode`, such as "a folder"; None for a regular file."""
    return next((text for test, text in KINDS if test(mode)), None)


def write_output(path: Path, data: bytes, *, mode: int | None = None) -> None:
    """Replace the file `path`. See `publish_files`."""
    publish_files(path.parent, {path.name: data}, mode=mode)


def write_new(path: Path, data: bytes) -> None:
    """Write the file `path`, which must not exist yet, not even as a link. Raises `Error` and then leaves no file."""
    check_folder(path.parent)
    try:
        create_file(path, data)
    except FileExistsError as error:
        hint = "choose another name, or remove the file first"
        raise Error("the file exists already and is not replaced", where=str(path), hint=hint) from error
    except OSError as error:
        raise output_error(path, error) from error


def publish_files(
    folder: Path, files: Mapping[str, bytes | Path], *, mode: int | None = None, marker: str | None = None
) -> None:
    """Replace files in `folder`, by name, with bytes or with the file at a path, which is moved. Raises `Error`.

    All new files are complete on the disk before the first one is renamed, so a full or failing disk changes nothing.
    `marker` names the file that marks the others as valid: it is removed first and renamed last. `mode` is the mode of
    files written from bytes; without it, the umask decides.
    """
    targets = {name: output_path(folder / name) for name in files}
    with ExitStack() as cleanup:
        scratch: dict[Path, Path] = {}
        staged: dict[str, Path] = {}
        for number, (name, content) in enumerate(files.items()):
            parent = targets[name].parent
            try:
                if parent not in scratch:
                    remove_leftovers(parent, SCRATCH + ANY_SUFFIX)
                    scratch[parent] = cleanup.enter_context(scratch_folder(parent, SCRATCH))
                staged[name] = scratch[parent] / str(number)
                if isinstance(content, Path):
                    move_file(content, staged[name])
                else:
                    create_file(staged[name], content, mode)
            except OSError as error:
                raise output_error(targets[name], error) from error
        try:
            if marker:
                targets[marker].unlink(missing_ok=True)
            for name in sorted(files, key=lambda name: name == marker):
                staged[name].replace(targets[name])
            for parent in {path.parent for path in targets.values()}:
                sync_path(parent)
        except OSError as error:
            raise output_error(folder, error) from error


def output_path(path: Path) -> Path:
    """Return `path` with links resolved. Raises `Error` if a regular file can't be written there."""
    kind = None
    try:
        real = path.resolve()
        if real.exists():
            kind = file_kind(real.stat().st_mode)
    except (OSError, RuntimeError, ValueError) as error:
        raise output_error(path, error) from error
    if kind:
        raise Error(f"this is {kind}, not a file", where=str(path), hint="name another file")
    check_folder(real.parent)
    return real


def check_folder(folder: Path) -> None:
    """Raise `Error` if no file can be created in `folder`."""
    if not folder.is_dir():
        missing = not os.path.lexists(folder)
        hint = f"mkdir -p {folder}" if missing else "name another folder"
        raise Error("this folder does not exist" if missing else "this is not a folder", where=str(folder), hint=hint)
    if not os.access(folder, os.W_OK | os.X_OK):
        read_only = bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
        message = (
            "this folder is on a read-only file system" if read_only else "no permission to create files in this folder"
        )
        raise Error(message, where=str(folder), hint="name another folder, or change its mode")


@contextmanager
def new_folder(folder: Path, *, mode: int = 0o777) -> Iterator[None]:
    """Create `folder` like `make_folder`. If the block fails, created folders that are empty are removed again.

    Raises `Error`.
    """
    created = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    try:
        make_folder(folder, mode=mode)
        yield
    except BaseException:
        for path in created:
            with suppress(OSError):
                path.rmdir()
        raise


def make_folder(folder: Path, *, mode: int = 0o777) -> None:
    """Create `folder` with `mode` if it does not exist. Raises `Error`, also if it can't be written to."""
    try:
        folder.mkdir(mode=mode, parents=True, exist_ok=True)
    except FileExistsError as error:
        raise Error("this is not a folder", where=str(folder), hint="name another folder") from error
    except (OSError, ValueError) as error:
        raise output_error(folder, error) from error
    check_folder(folder)


def move_file(source: Path, path: Path) -> None:
    """Move a file to the new name `path` and wait until it is on the disk. Raises `OSError`."""
    try:
        source.rename(path)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        descriptor = open_new(path, stat.S_IMODE(source.stat().st_mode))
    else:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        if source.exists():
            with source.open("rb", buffering=0) as file:
                sparse.copy_sparse(file.fileno(), descriptor)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    source.unlink(missing_ok=True)


def discard_file(path: Path) -> None:
    """Remove a file if it exists; errors are ignored."""
    with suppress(OSError):
        path.unlink(missing_ok=True)


def output_error(path: Path, error: BaseException) -> Error:
    """Return the error of a write to `path` as an `Error` for the user."""
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    hint = "free some space there, or name another folder" if full else "check the path, its permissions and its disk"
    return Error(f"cannot be written: {reason}", where=str(path), hint=hint)
