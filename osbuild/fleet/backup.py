"""Backups of a data folder in one archive (tar), and data folders made from them."""

import hashlib
import os
import re
import sqlite3
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO

import msgspec

from osbuild.fleet.restoration import Restoration, list_lost_bundles, list_offered_bundles, record_restoration
from osbuild.fleet.service import current_milliseconds
from osbuild.fleet.sqlite import copy_database
from osbuild.host.cache import file_digest
from osbuild.host.output import output_error, output_path, publish_files
from osbuild.host.scratch import ANY_SUFFIX, remove_leftovers, scratch_folder
from osbuild.shared.errors import Error
from osbuild.shared.files import open_new, sync_path
from osbuild.shared.locks import hold_file_lock, is_locked

INDEX, DATABASE, TLS, FILES = "backup.json", "fleet.db", "tls", "files"
FORMAT = 1
SCRATCH = ".edge-osbuild-backup-"
PRIVATE, PRIVATE_FOLDER = 0o600, 0o700
CHUNK = 2**20
NAME = re.compile(r"fleet\.db|tls/[a-z-]+\.(crt|key)|files/[0-9a-f]{64}")


class BackupIndex(msgspec.Struct):
    """The first file of an archive: the names of all others, with their SHA-256.

    `created` is when it was written, in milliseconds since 1970; 0 if that is unknown.
    """

    format: int
    files: dict[str, str]
    created: int = 0


def write_backup(data: Path, output: Path, *, bundles: bool) -> None:
    """Write the database and the keys of a data folder to `output`, and the bundles if wanted. Raises `Error`.

    A server may use the folder.
    """
    if not (data / DATABASE).exists():
        hint = "back up a database of PostgreSQL with pg_dump(1), and copy the data folder's `tls` and `files`"
        raise Error("there is no database in this data folder", where=str(data), hint=hint)
    target = output_path(output)
    remove_leftovers(target.parent, SCRATCH + ANY_SUFFIX)
    try:
        with scratch_folder(target.parent, SCRATCH) as scratch:
            created = current_milliseconds()
            copy_database(data / DATABASE, scratch / DATABASE)
            archive = scratch / "archive"
            with hold_file_lock(data / TLS):
                paths = {f"{TLS}/{path.name}": path for path in sorted((data / TLS).iterdir()) if path.is_file()}
                paths[DATABASE] = scratch / DATABASE
                digests = {name: file_digest(path) for name, path in paths.items()}
                if bundles:  # those of the copy: later ones are not known to it
                    for sha256 in sorted({bundle.sha256 for bundle in list_offered_bundles(scratch / DATABASE)}):
                        paths[f"{FILES}/{sha256}"], digests[f"{FILES}/{sha256}"] = data / FILES / sha256, sha256
                check_present(paths.values())
                write_archive(archive, paths, BackupIndex(FORMAT, digests, created))
            publish_files(target.parent, {target.name: archive})
    except OSError as error:
        raise output_error(output, error) from error


def check_present(paths: Iterable[Path]) -> None:
    """Raise `Error` if a file is missing."""
    if missing := next((path for path in paths if not path.is_file()), None):
        hint = "publish the bundle again (`edge-osbuild fleet bundle list` names it), or write --without-bundles"
        raise Error("this file of the data folder is missing", where=str(missing), hint=hint)


def write_archive(archive: Path, paths: Mapping[str, Path], index: BackupIndex) -> None:
    """Write an archive of files by name. Raises `OSError`."""
    content = msgspec.json.encode(index)
    with os.fdopen(open_new(archive, PRIVATE), "wb") as output, tarfile.open(fileobj=output, mode="w|") as tar:
        tar.addfile(_describe(INDEX, len(content)), BytesIO(content))
        for name, path in paths.items():
            with path.open("rb") as file:
                tar.addfile(_describe(name, os.fstat(file.fileno()).st_size), file)


def restore_backup(archive: Path, data: Path) -> Restoration:
    """Make the data folder `data`, which must not exist or be empty, from an archive. Raises `Error`."""
    if is_locked(data / "lock"):
        raise Error("an update server uses this data folder", where=str(data), hint="stop it, and move its folder away")
    if data.is_symlink() or (data.exists() and (not data.is_dir() or any(data.iterdir()))):
        hint = "move it away first, or name another folder with --data"
        raise Error("a backup is only restored to a new or empty folder", where=str(data), hint=hint)
    try:
        data.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(data.parent, SCRATCH + ANY_SUFFIX)
        with scratch_folder(data.parent, SCRATCH) as scratch:
            made = scratch / "data"
            for folder in (made, made / TLS, made / FILES):
                folder.mkdir(mode=PRIVATE_FOLDER)
            with open_archive(archive) as tar:
                index = extract_files(tar, made, str(archive))
            check_database(made / DATABASE, str(archive))
            restoration = Restoration(index.created or None, list_lost_bundles(made / DATABASE, made / FILES))
            record_restoration(made / DATABASE, archive.name, restoration)
            for folder in (made / FILES, made / TLS, made):
                sync_path(folder)
            made.rename(data)  # replaces an empty folder
            sync_path(data.parent)
            return restoration
    except OSError as error:
        raise output_error(data, error) from error


@contextmanager
def open_archive(archive: Path) -> Iterator[tarfile.TarFile]:
    """Open an archive to be read from its begin to its end. Raises `Error`, also for errors in the block."""
    try:
        with archive.open("rb") as file, tarfile.open(fileobj=file, mode="r|") as tar:
            yield tar
    except tarfile.TarError as error:
        raise Error(f"this is not a whole backup: {error}", where=str(archive), hint="use another backup") from error
    except FileNotFoundError as error:
        raise Error("there is no such backup", where=str(archive)) from error


def extract_files(tar: tarfile.TarFile, target: Path, where: str) -> BackupIndex:
    """Extract all files of a backup, compare them with its index, and return the index. Raises `Error`."""
    index: BackupIndex | None = None
    missing: dict[str, str] = {}
    for member in tar:
        content = tar.extractfile(member) if member.isreg() else None
        if content is None:
            raise _damaged(f"it has something else than files: {member.name!r}", where)
        if index is None:
            index = _read_index(content, where) if member.name == INDEX else None
            if index is None:
                raise _damaged("it has no index", where)
            missing = dict(index.files)
        elif missing.pop(member.name, None) != _write_file(target / member.name, content):
            raise _damaged(f"the contents of {member.name} are not those of its index", where)
    if missing or index is None:
        raise _damaged(f"these files are missing: {', '.join(missing) or INDEX}", where)
    return index


def check_database(path: Path, where: str) -> None:
    """Raise `Error` if a database is damaged."""
    try:
        with closing(sqlite3.connect(path)) as connection:
            (result,) = connection.execute("PRAGMA quick_check").fetchone()
    except sqlite3.Error as error:
        result = str(error)
    if result != "ok":
        raise _damaged(f"its database is damaged: {result}", where)


def _describe(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, PRIVATE
    return entry


def _read_index(content: IO[bytes], where: str) -> BackupIndex:
    try:
        index = msgspec.json.decode(content.read(), type=BackupIndex)
    except msgspec.DecodeError as error:
        raise _damaged(f"its index can't be read: {error}", where) from error
    if index.format != FORMAT:
        hint = "restore it with the version of edge-osbuild that wrote it, or a newer one"
        raise Error(f"this backup has the format {index.format}, not {FORMAT}", where=where, hint=hint)
    if bad := next((name for name in index.files if not NAME.fullmatch(name)), None):
        raise _damaged(f"it has a file of an unknown kind: {bad!r}", where)
    if DATABASE not in index.files:
        raise _damaged("it has no database", where)
    return index


def _write_file(path: Path, content: IO[bytes]) -> str:
    """Write a file, and return its SHA-256 in hexadecimal."""
    digest = hashlib.sha256()
    with os.fdopen(open_new(path, PRIVATE), "wb") as file:
        while chunk := content.read(CHUNK):
            file.write(chunk)
            digest.update(chunk)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _damaged(problem: str, where: str) -> Error:
    return Error(f"this is not a whole backup of an update server: {problem}", where=where, hint="use another backup")
