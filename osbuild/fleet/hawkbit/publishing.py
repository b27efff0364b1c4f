"""Puts a bundle into a hawkBit: one software module with one artifact, in a distribution set of its own."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import msgspec

from osbuild.fleet.bundle_check import check_bundle
from osbuild.fleet.hawkbit.management import HawkbitManagement
from osbuild.fleet.refusal import Refused
from osbuild.host.cache import file_digest
from osbuild.shared.errors import Error

TYPE = "os"
"""the key of hawkBit's own types: a software module that is an operating system, and a distribution set of only that"""
VERSIONS = "give each build its own version"


class SoftwareModule(msgspec.Struct):
    """A software module of hawkBit."""

    id: int
    name: str
    version: str
    type: str = ""


class ArtifactHashes(msgspec.Struct):
    """The hashes of an artifact, in hexadecimal."""

    sha256: str | None = None


class HawkbitArtifact(msgspec.Struct):
    """A file of a software module."""

    hashes: ArtifactHashes


class DistributionSet(msgspec.Struct):
    """A distribution set of hawkBit, with its software modules."""

    id: int
    name: str
    version: str
    modules: list[SoftwareModule] = []


@dataclass(frozen=True)
class LocalBundle:
    """A bundle that was checked. `sha256` is in hexadecimal.

    hawkBit knows it by `compatible` and version: the bundles of all boards of a profile have the same name.
    """

    path: Path
    compatible: str
    version: str
    sha256: str


@dataclass(frozen=True)
class HawkbitBundle:
    """Where a bundle is in a hawkBit. `is_new` is false if it was there already."""

    module: int
    distribution_set: int
    is_new: bool


def read_bundle(path: Path, keyring: bytes) -> LocalBundle:
    """Return what a bundle says, if a certificate in `keyring` (PEM) has signed it. Raises `Error`."""
    try:
        with tempfile.NamedTemporaryFile(prefix="edge-hawkbit-") as trusted:
            trusted.write(keyring)
            trusted.flush()
            checked = check_bundle(path, Path(trusted.name))
        digest = file_digest(path)
    except OSError as error:
        raise Error(f"the bundle can't be read: {error.strerror}", where=str(path)) from error
    except Refused as refusal:
        hint = "--keys names the keys that the bundle is signed with"
        raise Error(refusal.message, where=str(path), hint=hint) from refusal
    return LocalBundle(path, checked.compatible, checked.version, digest)


def publish_to_hawkbit(management: HawkbitManagement, bundle: LocalBundle) -> HawkbitBundle:
    """Put a bundle into a hawkBit, unless it is there already. What an earlier attempt has begun is completed.

    Raises `Error` if another bundle for the same devices has the same version.
    """
    module, is_new = prepare_module(management, bundle)
    return HawkbitBundle(module, prepare_distribution_set(management, bundle, module), is_new)


def prepare_module(management: HawkbitManagement, bundle: LocalBundle) -> tuple[int, bool]:
    """Return the id of the software module that has the bundle, and whether the bundle was uploaded now."""
    modules = management.find("/softwaremodules", SoftwareModule, name=bundle.compatible, version=bundle.version)
    wanted = (TYPE, bundle.compatible, bundle.version)
    same = [module for module in modules if (module.type, module.name, module.version) == wanted]
    if same:
        module = same[0]
    else:
        document = {
            "name": bundle.compatible, "version": bundle.version, "type": TYPE, "vendor": "edge-osbuild",
        }  # fmt: skip
        (module,) = management.create("/softwaremodules", [document], list[SoftwareModule])
    address = f"/softwaremodules/{module.id}/artifacts"
    artifacts = management.read(address, list[HawkbitArtifact])
    if not artifacts:
        upload_artifact(management, address, bundle)
        return module.id, True
    if [artifact.hashes.sha256 for artifact in artifacts] != [bundle.sha256]:
        message = f"the software module {bundle.compatible} {bundle.version} exists already with other contents"
        raise Error(message, where=management.url, hint=VERSIONS)
    return module.id, False


def upload_artifact(management: HawkbitManagement, address: str, bundle: LocalBundle) -> None:
    """Upload the file of a bundle. hawkBit compares the hash."""
    with bundle.path.open("rb") as file:
        files = {"file": (bundle.path.name, file, "application/octet-stream")}
        management.call("POST", address, params={"sha256sum": bundle.sha256}, files=files)


def prepare_distribution_set(management: HawkbitManagement, bundle: LocalBundle, module: int) -> int:
    """Return the id of the distribution set that has only this software module."""
    sets = management.find("/distributionsets", DistributionSet, name=bundle.compatible, version=bundle.version)
    same = [entry for entry in sets if (entry.name, entry.version) == (bundle.compatible, bundle.version)]
    if not same:
        document = {"name": bundle.compatible, "version": bundle.version, "type": TYPE, "modules": [{"id": module}]}
        (created,) = management.create("/distributionsets", [document], list[DistributionSet])
        return created.id
    complete = management.read(f"/distributionsets/{same[0].id}", DistributionSet)
    if not complete.modules:
        management.send("POST", f"/distributionsets/{complete.id}/assignedSM", [{"id": module}])
    elif [part.id for part in complete.modules] != [module]:
        message = f"the distribution set {bundle.compatible} {bundle.version} exists already with other modules"
        raise Error(message, where=management.url, hint=VERSIONS)
    return complete.id
