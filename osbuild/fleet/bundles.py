"""Bundles that the update server offers. Their files are stored by content."""

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sqlalchemy import Connection, Row, bindparam, select, update

from osbuild.fleet.database import insert_row
from osbuild.fleet.prepared_read import PreparedRead
from osbuild.fleet.refusal import Refused
from osbuild.fleet.tables import bundles
from osbuild.shared.files import open_new, sync_path

CHUNK = 2**20
SCRATCH = (UPLOAD, STORING) = (".upload-", ".new-")
"""how the names of files begin that an upload needs, and that stay behind if the server is killed"""
PRIVATE_FOLDER = 0o700
FILENAME = re.compile(r"[A-Za-z0-9_+~-][A-Za-z0-9._+~-]{0,127}", re.ASCII)
BY_ID = PreparedRead(select(bundles).where(bundles.c.id == bindparam("bundle_id")))


@dataclass(frozen=True)
class PublishedBundle:
    """A row of the table `bundles`. `size` is in bytes, the digests are in hexadecimal."""

    id: int
    name: str
    version: str
    compatible: str
    filename: str
    size: int
    sha256: str
    sha1: str
    md5: str
    created: int
    deleted: int | None = None

    @property
    def title(self) -> str:
        """The bundle as people see it."""
        return f"{self.name} {self.version}"


@dataclass(frozen=True)
class StoredFile:
    """A file that has been stored. `size` is in bytes, the digests are in hexadecimal.

    It is not `is_new` if the same contents were stored before.
    """

    size: int
    sha256: str
    sha1: str
    md5: str
    is_new: bool = True


@dataclass(frozen=True)
class NewBundle:
    """What a bundle says about itself, and the name of its file."""

    name: str
    version: str
    compatible: str
    filename: str


class FileStore:
    """Files in `folder`, named by their SHA-256."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)

    def path(self, sha256: str) -> Path:
        """Return the path of a file."""
        return self.folder / sha256

    def free_space(self) -> int:
        """Return the bytes that are free for files. Raises `OSError`."""
        return shutil.disk_usage(self.folder).free

    def remove_scratch(self) -> None:
        """Remove what interrupted uploads have left, while no upload is in progress. Raises `OSError`."""
        for path in list(self.folder.iterdir()):
            if path.name.startswith(SCRATCH):
                path.unlink(missing_ok=True)

    def store_file(self, source: IO[bytes]) -> StoredFile:
        """Store what `source` contains. It survives a power cut. Raises `OSError`."""
        # SHA-1 and MD5 are part of the protocol. What a device trusts is the signature of the bundle.
        digests = [hashlib.sha256(), hashlib.sha1(usedforsecurity=False), hashlib.md5(usedforsecurity=False)]
        size, scratch = 0, self.folder / f"{STORING}{os.urandom(8).hex()}"
        try:
            with os.fdopen(open_new(scratch), "wb") as file:
                for chunk in _chunks(source):
                    file.write(chunk)
                    size += len(chunk)
                    for digest in digests:
                        digest.update(chunk)
                file.flush()
                os.fsync(file.fileno())
            sha256, sha1, md5 = (digest.hexdigest() for digest in digests)
            stored = StoredFile(size, sha256, sha1, md5, not self.path(sha256).exists())
            scratch.replace(self.path(stored.sha256))
        except BaseException:
            scratch.unlink(missing_ok=True)
            raise
        sync_path(self.folder)
        return stored


def check_filename(name: str) -> None:
    """Raise `Refused` if a file of a bundle can't have this name: devices and people use it as a path."""
    if FILENAME.fullmatch(name) is None:
        message = "the name of a bundle has 1 to 128 letters, digits and any of . _ + ~ -, and begins with no dot"
        raise Refused(400, "bad-filename", message)


def add_bundle(connection: Connection, named: NewBundle, stored: StoredFile, now: int) -> PublishedBundle:
    """Offer a stored file as a bundle, again if it was deleted.

    Raises `Refused` if another file for the same devices has or had the same name and version.
    """
    same = select(bundles).where(
        bundles.c.name == named.name, bundles.c.version == named.version, bundles.c.compatible == named.compatible
    )  # fmt: skip
    if row := connection.execute(same).first():
        if _bundle(row).sha256 == stored.sha256:
            connection.execute(update(bundles).where(bundles.c.id == row.id).values(deleted=None))
            return read_bundle_row(connection, row.id)
        message = (
            f"{named.name} {named.version} for {named.compatible} exists already with other contents: "
            "give each build its own version"
        )
        raise Refused(409, "bundle-exists", message)
    values = {
        "name": named.name, "version": named.version, "compatible": named.compatible, "filename": named.filename,
        "size": stored.size, "sha256": stored.sha256, "sha1": stored.sha1, "md5": stored.md5, "created": now,
    }  # fmt: skip
    number = insert_row(connection, bundles, values)
    return read_bundle_row(connection, number)


def read_bundle_row(connection: Connection, number: int) -> PublishedBundle:
    """Return the bundle with the id `number`, which exists."""
    return PublishedBundle(**BY_ID.one(connection, bundle_id=number))


def find_bundle(connection: Connection, number: int) -> PublishedBundle | None:
    """Return the bundle with the id `number`, None if it does not exist or was deleted."""
    values = BY_ID.first(connection, bundle_id=number)
    return None if values is None or values["deleted"] is not None else PublishedBundle(**values)


def find_content(connection: Connection, sha256: str) -> PublishedBundle | None:
    """Return the bundle that is offered with these contents, None if there is none."""
    chosen = select(bundles).where(bundles.c.sha256 == sha256, bundles.c.deleted.is_(None))
    row = connection.execute(chosen.limit(1)).first()
    return None if row is None else _bundle(row)


def list_bundles(connection: Connection) -> list[PublishedBundle]:
    """Return all bundles that are offered, the newest first."""
    chosen = select(bundles).where(bundles.c.deleted.is_(None)).order_by(bundles.c.id.desc())
    return [_bundle(row) for row in connection.execute(chosen)]


def _bundle(row: Row[tuple[object, ...]]) -> PublishedBundle:
    return PublishedBundle(**row._mapping)


def _chunks(source: IO[bytes]) -> Iterator[bytes]:
    while chunk := source.read(CHUNK):
        yield chunk
