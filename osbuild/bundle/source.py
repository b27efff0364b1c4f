"""A build as the source of a bundle: its manifest and files, checked against each other."""

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
BOOT_IMAGE = re.compile(r"edge-(?P<slot>[a-z])\.(?P<suffix>\w+)")


@dataclass(frozen=True)
class BundleSource:
    """One build. `boot` maps slots to boot images, which belong in the folder `boot_folder` of the ESP.

    Devices that run the version `downgrade` may install this older build; empty for none. With `change_owner`, devices
    may install it although its image trusts none of their roots.
    """

    folder: Path
    manifest: Manifest
    boot: Mapping[str, Path]
    boot_folder: str
    downgrade: str = ""
    change_owner: bool = False

    @property
    def board(self) -> str:
        """The name of its board."""
        return self.manifest.board_name

    @property
    def version(self) -> str:
        return self.manifest.version

    @property
    def compatible(self) -> str:
        """RAUC's `compatible` of the devices that may install it."""
        return compatible_of(self.manifest.name, self.board)

    @property
    def title(self) -> str:
        return f"{self.manifest.name}-{self.version}-{self.board}"

    @property
    def root(self) -> Path:
        return self.folder / "root.erofs"

    @property
    def hash_tree(self) -> Path:
        return self.folder / "root.verity"

    @property
    def indexed(self) -> bool:
        """Whether the adaptive index of the root can be made from the hash tree, because the hash tree has no salt."""
        with self.hash_tree.open("rb") as file:
            verity = read_verity(file, 0)
        return verity is not None and not verity.salt and verity.root_hash == self.manifest.roothash


def read_build(folder: Path) -> BundleSource:
    """Read the build in `folder`. Raises `Error` if it is not a finished build, or a file is missing."""
    where = str(folder)
    if not folder.is_dir():
        hint = "name the folder of a build, such as build/minimal-1.0.0-x86_64"
        raise Error(
            "this is not a build folder" if folder.exists() else "this folder does not exist", where=where, hint=hint
        )
    try:
        manifest = Manifest.read(folder)
        check_complete(manifest)
    except FileNotFoundError as error:
        hint = "run `edge-osbuild build`; an interrupted build has no manifest.json"
        raise Error("this folder does not contain a finished build", where=where, hint=hint) from error
    except (OSError, ValueError) as error:
        raise Error(f"manifest.json is damaged: {error}", where=where, hint=AGAIN) from error
    files = manifest.files
    boot = {match["slot"]: match for name in sorted(files) if (match := BOOT_IMAGE.fullmatch(name))}
    esp_folders = {boot_image_folder(match["suffix"]) for match in boot.values()}
    if (
        len(boot) < 2
        or len(esp_folders) != 1
        or None in esp_folders
        or not {"root.erofs", "root.verity"} <= files.keys()
    ):
        message = (
            f"manifest.json must name a root and the boot images of two slots, but names: {', '.join(sorted(files))}"
        )
        raise Error(message, where=where, hint=AGAIN)
    for name in ("root.erofs", "root.verity", *(match[0] for match in boot.values())):
        if (folder / name).exists() and not (folder / name).is_file():
            raise Error("this is not a file", where=str(folder / name), hint=AGAIN)
    return BundleSource(
        folder, manifest, {slot: folder / match[0] for slot, match in boot.items()}, str(esp_folders.pop())
    )


def check_complete(manifest: Manifest) -> None:
    """Raise `ValueError` if the manifest lacks a field that a bundle needs."""
    for name in ("name", "version", "architecture", "roothash"):
        if not getattr(manifest, name):
            raise ValueError(f"`{name}` is missing")
    for name, file in manifest.files.items():
        if not file.sha256:
            raise ValueError(f"`files.{name}.sha256` is missing")


def boot_image_folder(suffix: str) -> str | None:
    """Return the folder on the ESP of boot images with this suffix, "" for the top; None if no boot flow has them."""
    for flow in BOOT_FLOWS.values():
        if flow.suffix == suffix:
            return str(Path(flow.boot_image_path("a")).parent).removeprefix(".")
    return None


def check_build(source: BundleSource) -> None:
    """Raise `Error` if a file was changed after the build, or the version can't be compared."""
    if not is_image_version(source.version):
        message = f"the version `{source.version}` can't be compared with others, so devices can't detect a downgrade"
        raise Error(message, where=str(source.folder), hint="write `version: 1.2.3` in the profile (semver.org)")
    for path in (source.root, source.hash_tree, *source.boot.values()):
        try:
            same = file_digest(path) == source.manifest.files[path.name].sha256
        except OSError as error:
            raise Error(f"cannot be read: {error.strerror}", where=str(path), hint=AGAIN) from error
        if not same:
            raise Error("this file was changed after the build: its sha256 differs", where=str(path), hint=AGAIN)
