"""A build as the source of a bundle: what its manifest says, checked against the files that are there."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from osbuild.boot.registry import BOOT_FLOWS
from osbuild.formats.superblocks import read_verity
from osbuild.host.cache import file_digest
from osbuild.image.rauc_config import compatible_of
from osbuild.inputs.build_manifest import Manifest
from osbuild.shared.errors import Error
from osbuild.shared.image_versions import is_image_version

AGAIN = "run `edge-osbuild build` again"
BOOT_FILE = re.compile(r"edge-(?P<slot>[a-z])\.(?P<suffix>\w+)")


@dataclass(frozen=True)
class BundleSource:
    """One build. `boot` is slot -> its boot file, which belongs into `boot_image_folder` of the boot partition.

    `downgrade` is a version: devices that run it may take this one although it is older. Empty for none.
    `change_owner` lets devices take it although its image trusts none of their roots.
    """

    folder: Path
    manifest: Manifest
    boot: Mapping[str, Path]
    boot_folder: str
    downgrade: str = ""
    change_owner: bool = False

    @property
    def board(self) -> str:
        """What hardware it is for."""
        return self.manifest.board_name

    @property
    def version(self) -> str:
        return self.manifest.version

    @property
    def compatible(self) -> str:
        """What a device must be to install this (RAUC's `compatible_of`)."""
        return compatible_of(self.manifest.name, self.board)

    @property
    def title(self) -> str:
        return f"{self.manifest.name}-{self.version}-{self.board}"

    @property
    def root(self) -> Path:
        return self.folder / "root.erofs"

    @property
    def tree(self) -> Path:
        return self.folder / "root.verity"

    @property
    def indexed(self) -> bool:
        """Whether the lowest level of the hash tree is the sha256 of each block of the root: it has no salt."""
        with self.tree.open("rb") as file:
            found = read_verity(file, 0)
        return found is not None and not found.salt and found.root_hash == self.manifest.roothash


def read_build(folder: Path) -> BundleSource:
    """The build in `folder`. Raises `Error` where there is none, or a part of it is missing."""
    where = str(folder)
    if not folder.is_dir():
        hint = "name the folder of a build, such as build/minimal-1.0.0-x86_64"
        raise Error("this is no build" if folder.exists() else "there is no such folder", where=where, hint=hint)
    try:
        manifest = Manifest.read(folder)
        check_complete(manifest)
    except FileNotFoundError as error:
        hint = "`edge-osbuild build` makes one; an interrupted one has no manifest.json"
        raise Error("there is no finished build in this folder", where=where, hint=hint) from error
    except (OSError, ValueError) as error:
        raise Error(f"its manifest.json is damaged: {error}", where=where, hint=AGAIN) from error
    files = manifest.files
    boot = {match["slot"]: match for name in sorted(files) if (match := BOOT_FILE.fullmatch(name))}
    places = {boot_image_folder(match["suffix"]) for match in boot.values()}
    if len(boot) < 2 or len(places) != 1 or None in places or not {"root.erofs", "root.verity"} <= files.keys():
        message = f"its manifest.json names no root and boot files for two slots, but: {', '.join(sorted(files))}"
        raise Error(message, where=where, hint=AGAIN)
    for name in ("root.erofs", "root.verity", *(match[0] for match in boot.values())):
        if (folder / name).exists() and not (folder / name).is_file():
            raise Error("this is not a file", where=str(folder / name), hint=AGAIN)
    return BundleSource(folder, manifest, {slot: folder / match[0] for slot, match in boot.items()}, str(places.pop()))


def check_complete(manifest: Manifest) -> None:
    """Raises `ValueError` if the manifest lacks what a bundle is made from."""
    for name in ("name", "version", "architecture", "roothash"):
        if not getattr(manifest, name):
            raise ValueError(f"`{name}` is missing")
    for name, file in manifest.files.items():
        if not file.sha256:
            raise ValueError(f"`files.{name}.sha256` is missing")


def boot_image_folder(suffix: str) -> str | None:
    """Where on the boot partition the boot flow with such boot files has them, "" at the top; None if there is none."""
    for flow in BOOT_FLOWS.values():
        if flow.suffix == suffix:
            return str(Path(flow.boot_image_path("a")).parent).removeprefix(".")
    return None


def check_build(source: BundleSource) -> None:
    """Raises `Error` where a file is not the one that was built, or the version is none that can be compared."""
    if not is_image_version(source.version):
        message = f"the version `{source.version}` can't be compared with others, so devices could be moved back by it"
        raise Error(message, where=str(source.folder), hint="write `version: 1.2.3` in the profile (semver.org)")
    for path in (source.root, source.tree, *source.boot.values()):
        try:
            same = file_digest(path) == source.manifest.files[path.name].sha256
        except OSError as error:
            raise Error(f"cannot be read: {error.strerror}", where=str(path), hint=AGAIN) from error
        if not same:
            raise Error("is not the file that was built: its sha256 differs", where=str(path), hint=AGAIN)
