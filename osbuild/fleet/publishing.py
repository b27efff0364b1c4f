"""Publishing a bundle: what is uploaded is stored on the disk, checked, and offered to devices."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool

from osbuild.fleet.audit import Origin, record_event
from osbuild.fleet.bundle_check import check_bundle
from osbuild.fleet.bundles import UPLOAD, NewBundle, PublishedBundle, add_bundle, check_filename, find_content
from osbuild.fleet.refusal import Refused
from osbuild.fleet.service import Service
from osbuild.shared.sizes import format_bytes

LARGEST_BUNDLE = 16 * 2**30  # bytes
CHECK_EVERY = 16 * 2**20  # bytes
LONGEST_NAME = 256  # characters of a file's name in the audit log
RESERVE = 256 * 2**20  # bytes of the disk that an upload leaves free, for the database


@dataclass(frozen=True)
class UploadedFile:
    """A file that is removed when its upload has ended."""

    path: Path
    contents: IO[bytes]


@contextmanager
def receive_upload(service: Service) -> Iterator[UploadedFile]:
    """Yield a file for an upload. It is removed at the end. Raises `Refused` if the disk is full."""
    path = service.files.folder / f"{UPLOAD}{os.urandom(8).hex()}"
    try:
        with path.open("x+b") as contents:
            try:
                yield UploadedFile(path, contents)
            finally:
                path.unlink(missing_ok=True)  # before the file is closed, which fails if the last bytes have no room
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise Refused(507, "disk-full", "the disk of the server is full: delete what is not needed there") from error


def check_size(service: Service, size: int) -> None:
    """Raise `Refused` if a bundle of this size, in bytes, is too large for the server or for its disk."""
    if size > LARGEST_BUNDLE:
        message = f"a bundle has at most {format_bytes(LARGEST_BUNDLE)}, and this one has {format_bytes(size)}"
        raise Refused(413, "bundle-too-large", message)
    check_room(service, 2 * size)  # it is stored a second time while it is given its place among the files


def check_room(service: Service, needed: int) -> None:
    """Raise `Refused` if the disk has no room for so many more bytes, and the reserve."""
    free = service.files.free_space() - RESERVE
    if needed > free:
        message = (
            f"the disk of the server has no room for {format_bytes(needed)}: {format_bytes(max(free, 0))} are free"
        )
        raise Refused(507, "disk-full", message)


async def limit_chunks(service: Service, chunks: AsyncIterator[bytes], announced: str | None) -> AsyncIterator[bytes]:
    """Yield the chunks of a body whose size was `announced` (Content-Length). Raises `Refused`.

    The body must be neither too large nor too slow.
    """
    if announced is not None and announced.isdecimal():
        check_size(service, int(announced))
    size, next_check = 0, 0
    while True:
        try:
            async with asyncio.timeout(service.client_timeout):
                chunk = await anext(chunks, None)
        except TimeoutError as error:
            message = f"nothing has arrived for {service.client_timeout:g} s: send the bundle again"
            raise Refused(408, "too-slow", message) from error
        if chunk is None:
            return
        size += len(chunk)
        if size > LARGEST_BUNDLE:
            check_size(service, size)
        if size >= next_check:  # other uploads use the disk too, and a body in chunks announces no size
            next_check = size + CHECK_EVERY
            check_room(service, size + CHECK_EVERY)  # what is written before the next check, and the second copy
        yield chunk


async def record_refusal(service: Service, filename: str, refusal: Refused, origin: Origin) -> None:
    """Record that a bundle was refused. If the database fails, only the refusal of the bundle matters."""
    details, subject = {"code": refusal.code, "reason": refusal.message}, filename[:LONGEST_NAME]
    with suppress(Refused):
        await service.database.change(lambda c: record_event(c, origin, "publish refused", subject, **details))


async def publish_upload(service: Service, file: UploadedFile, filename: str, origin: Origin) -> PublishedBundle:
    """Check an uploaded bundle, offer it, and record that. Raises `Refused`."""
    check_filename(filename)
    file.contents.flush()
    check_room(service, file.path.stat().st_size)
    checked = await run_in_threadpool(check_bundle, file.path, service.keyring)
    file.contents.seek(0)
    stored = await run_in_threadpool(service.files.store_file, file.contents)
    new = NewBundle(checked.meta.get("name", "") or checked.compatible, checked.version, checked.compatible, filename)

    def add(connection: Connection) -> PublishedBundle:
        if not service.files.path(stored.sha256).exists():  # somebody has just deleted this bundle
            raise Refused(409, "bundle-deleted", "this bundle was deleted while it was uploaded: send it again")
        before = find_content(connection, stored.sha256)
        bundle = add_bundle(connection, new, stored, origin.time)
        if before is None or stored.is_new:  # otherwise nothing has changed
            details = {"bundle": bundle.id, "compatible": bundle.compatible, "sha256": bundle.sha256}
            record_event(connection, origin, "bundle published", bundle.title, **details)
        return bundle

    return await service.database.change(add)
