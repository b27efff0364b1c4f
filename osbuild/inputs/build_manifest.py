"""The build manifest, `manifest.json` in a build folder and `build.json` in a bundle: read and written only here."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from osbuild.shared.files import read_file
from osbuild.shared.json_text import parse_json
from osbuild.shared.records import parse_record, record_to_json

MANIFEST = "manifest.json"  # the file that makes a folder a finished build
DISK, PACKED_DISK = "disk.img", "disk.img.zst"


def find_disk(folder: Path, names: Iterable[str] = (DISK, PACKED_DISK)) -> Path | None:
    """The disk image in a build folder, the first of `names` that exists; None if there is none."""
    return next((folder / name for name in names if (folder / name).is_file()), None)


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """A file of a build; `used` is how many of its bytes take space on the disk."""

    sha256: str = ""
    size: int | None = None
    used: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ComponentRecord:
    """A component, with its installed size in bytes. `requested` is what the profile asked for if it was replaced.

    `reason` is the cause of the replacement.
    """

    name: str
    version: str = ""
    size: int | None = None
    distribution: str = ""
    reason: str | None = field(default=None, metadata={"key": "because"})
    requested: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PackageRecord:
    """A Debian package; `size` is that of its file, `installed` that of its files in the root, in bytes."""

    name: str
    version: str = ""
    architecture: str = ""
    sha256: str = ""
    size: int | None = None
    installed: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class KernelRecord:
    """The kernel: the file name of its package, that file's sha256, and `uname -r`."""

    package: str = ""
    sha256: str = ""
    release: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TrustedRoot:
    """A root certificate that an image trusts; `sha256` is its fingerprint."""

    name: str = ""
    sha256: str
    until: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TrustRecord:
    """Whose updates an image accepts (`osbuild.image.update_trust`)."""

    owner: str | None = None
    development: bool | None = None
    roots: tuple[TrustedRoot, ...] = ()
    revoked: tuple[str, ...] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class BuilderRecord:
    """The version of this program that made an image (`osbuild.host.version`)."""

    number: str
    commit: str | None
    modified: bool
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class LargePart:
    """One of the largest parts of an image, in bytes."""

    name: str = ""
    path: str = ""
    size: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """How long a step of the build took; `depth` is how many steps it is part of."""

    depth: int | None = None
    step: str = ""
    seconds: float
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What an image contains. Builds of earlier versions lack some keys; `extra` has those of later versions.

    `slot_free_percent` is the headroom of a slot. `change_owner` is written in bundles only.
    """

    name: str = ""
    version: str = ""
    architecture: str = ""
    board: str = ""
    builder: BuilderRecord | None = None
    key: str = ""
    lock: str = ""
    roothash: str = ""
    slot_free_percent: int | None = None
    trust: TrustRecord = TrustRecord()
    components: tuple[ComponentRecord, ...] = ()
    packages: tuple[PackageRecord, ...] = ()
    kernel: KernelRecord = KernelRecord()
    files: Mapping[str, FileRecord] = field(default_factory=dict)
    largest: tuple[LargePart, ...] = ()
    timings: tuple[StepTime, ...] = ()
    change_owner: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def board_name(self) -> str:
        """The board; builds of earlier versions name only the architecture, which is its default board."""
        return self.board or self.architecture

    @property
    def trusted_roots(self) -> tuple[str, ...]:
        """Fingerprints of the roots that the image trusts; empty if the manifest does not name them."""
        return tuple(root.sha256 for root in self.trust.roots)

    @classmethod
    def parse(cls, text: str | bytes) -> "Manifest":
        """The manifest in JSON. Raises `ValueError`."""
        return parse_record(cls, parse_json(text))

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """The manifest in a build folder. Raises `OSError` or `ValueError`."""
        return cls.parse(read_file(folder / MANIFEST))

    @classmethod
    def find(cls, image: Path) -> "Manifest | None":
        """The manifest beside an image; None if there is no valid one. The image may have been copied there."""
        try:
            return cls.read(image.parent)
        except (OSError, ValueError):
            return None

    def to_json(self) -> dict[str, Any]:
        """The manifest as JSON can write it."""
        return record_to_json(self)

    def to_text(self) -> str:
        """The contents of `manifest.json`."""
        return json.dumps(self.to_json(), indent=1) + "\n"
