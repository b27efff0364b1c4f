"""Resolves the path that `run` boots: a disk image or a build folder."""

from dataclasses import dataclass
from pathlib import Path

from osbuild.config.board import Board, default_board, load_board
from osbuild.host.architecture import Architecture
from osbuild.inputs.build_manifest import DISK, Manifest, find_disk
from osbuild.shared.errors import Error


@dataclass(frozen=True)
class Bootable:
    """A disk image, its seed if it has one, and the board that it runs on."""

    image: Path
    seed: Path | None
    board: Board


def find_bootable(path: Path, *, seed: Path | None = None, board: Board | None = None) -> Bootable:
    """Resolve `path`, a disk image or a build folder with `disk.img` and optionally `seed.iso`. Raises `Error`.

    Without `board`, it is the board in the manifest beside the image, else the default board of this host. `seed.iso`
    is used only if `path` is the folder.
    """
    image = path
    if path.is_dir():
        disk = find_disk(path, [DISK])
        if disk is None:
            raise Error(
                "this folder contains no disk.img", where=str(path), hint="build one: edge-osbuild build PROFILE"
            )
        image = disk
        if seed is None and (path / "seed.iso").is_file():
            seed = path / "seed.iso"
    return Bootable(image, seed, board or _recorded(image) or default_board(Architecture.native()))


def _recorded(image: Path) -> Board | None:
    """Return the board in the manifest, or of its architecture if it is older; None without a manifest."""
    manifest = Manifest.find(image)
    if manifest is None:
        return None  # an image from another source; --board names its board
    try:
        return load_board(manifest.board) if manifest.board else default_board(Architecture(manifest.architecture))
    except (OSError, ValueError):
        return None
