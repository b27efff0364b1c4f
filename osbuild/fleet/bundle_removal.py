"""The end of bundles: they are offered no more, and files to which nothing refers are deleted."""

import re
import time
from functools import partial
from pathlib import Path

from sqlalchemy import Connection, select, update

from osbuild.fleet.audit import Origin, record_event
from osbuild.fleet.bundles import SCRATCH, FileStore, find_bundle
from osbuild.fleet.refusal import Refused, not_found
from osbuild.fleet.service import Service
from osbuild.fleet.states import ROLLOUT_ENDED
from osbuild.fleet.tables import actions, bundles, devices, rollouts

LEAST_AGE = 3600.0  # seconds since the last change of a file; an upload that is in progress is younger
STORED = re.compile(r"[0-9a-f]{64}")


def delete_bundle(connection: Connection, number: int, origin: Origin) -> str:
    """Offer a bundle no more, and return the SHA-256 of its file.

    What devices have installed of it stays in their history. Raises `Refused` if a device or a rollout needs it.
    """
    bundle = find_bundle(connection, number)
    if bundle is None:
        raise not_found(f"there is no bundle {number}")
    chosen = select(devices.c.name).join(actions, actions.c.device == devices.c.id)
    device = connection.execute(chosen.where(actions.c.active, actions.c.bundle == number).limit(1)).scalar()
    if device is not None:
        raise Refused(409, "bundle-in-use", f"the device {device} is told to install the bundle {number}")
    using = select(rollouts.c.name).where(rollouts.c.bundle == number, rollouts.c.state.not_in(ROLLOUT_ENDED))
    rollout = connection.execute(using.limit(1)).scalar()
    if rollout is not None:
        raise Refused(409, "bundle-in-use", f"the rollout {rollout} of the bundle {number} has not ended")
    connection.execute(update(bundles).where(bundles.c.id == number).values(deleted=origin.time))
    record_event(connection, origin, "bundle deleted", bundle.title, sha256=bundle.sha256)
    return bundle.sha256


def remove_file(connection: Connection, files: FileStore, sha256: str) -> None:
    """Delete the file of a bundle, unless a bundle that is offered refers to it."""
    # Within a change, so that no upload of the same bundle can offer the file at the same time.
    offered = select(bundles.c.id).where(bundles.c.sha256 == sha256, bundles.c.deleted.is_(None))
    if connection.execute(offered.limit(1)).first() is None:
        files.path(sha256).unlink(missing_ok=True)


async def end_bundle(service: Service, number: int, origin: Origin) -> None:
    """Offer a bundle no more, and delete its file. Raises `Refused`."""
    sha256 = await service.database.change(lambda connection: delete_bundle(connection, number, origin))
    await service.database.change(lambda connection: remove_file(connection, service.files, sha256))


async def remove_unneeded_files(service: Service) -> None:
    """Delete the files to which nothing refers: of refused and interrupted uploads."""
    for path in list(service.files.folder.iterdir()):
        if not is_old(path):
            continue
        if STORED.fullmatch(path.name):
            await service.database.change(partial(remove_file, files=service.files, sha256=path.name))
        elif path.name.startswith(SCRATCH):
            path.unlink(missing_ok=True)


def is_old(path: Path) -> bool:
    """Whether a file has not changed for `LEAST_AGE` seconds."""
    try:
        return path.stat().st_mtime < time.time() - LEAST_AGE
    except FileNotFoundError:  # an upload has ended
        return False
