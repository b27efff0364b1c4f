"""Bundles that are offered but whose files are missing, such as after a backup without bundles was restored."""

from osbuild.fleet.bundles import FileStore, PublishedBundle, find_bundle, list_bundles
from osbuild.fleet.refusal import Refused
from osbuild.fleet.service import Service
from osbuild.host import log

MOST_NAMED = 20


def is_lost(files: FileStore, bundle: PublishedBundle) -> bool:
    """Whether the file of a bundle is missing."""
    return not files.path(bundle.sha256).is_file()


def require_file(service: Service, number: int) -> None:
    """Raise `Refused` if the bundle with the id `number` is offered, and its file is missing."""
    bundle = service.database.read(lambda connection: find_bundle(connection, number))
    if bundle is not None and is_lost(service.files, bundle):
        message = f"the file of the bundle {number} ({bundle.title}) is missing on the server: publish it again"
        raise Refused(409, "bundle-file-missing", message)


def warn_of_lost_files(service: Service) -> None:
    """Print which bundles have lost their files, and what to do."""
    lost = [bundle for bundle in service.database.read(list_bundles) if is_lost(service.files, bundle)]
    for bundle in lost[:MOST_NAMED]:
        log.warn(f"the file of {describe(bundle)} is missing: publish the same file again, or delete the bundle")
    if len(lost) > MOST_NAMED:
        log.warn(
            f"the files of {len(lost) - MOST_NAMED} more bundles are missing: see `edge-osbuild fleet bundle list`"
        )


def describe(bundle: PublishedBundle) -> str:
    """Return a bundle with its number, and the name of the file that was published."""
    return f"the bundle {bundle.id} ({bundle.title} for {bundle.compatible}, {bundle.filename})"
