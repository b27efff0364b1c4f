"""What `run` is asked to boot: a disk image, or the folder of a build."""

from dataclasses import dataclass
from pathlib import Path

from osbuild.config.board import Board, default_board, load_board
from osbuild.host.architecture import Architecture
from osbuild.inputs.build_manifest import Manifest
from osbuild.shared.errors import Error


@dataclass(frozen=True)
class Bootable:
    """A disk image, the seed for its first boot if there is one, and what it runs on."""

    image: Path
    seed: Path | None
    board: Board


def find_bootable(path: Path, *, seed: Path | None = None, board: Board | None = None) -> Bootable:
    """Find what belongs to `path`: a build's folder has `disk.img` and maybe `seed.iso`.

    What is given wins; the board comes from `manifest.json` beside the image, else it is this host's kind of machine.
    A `seed.iso` beside an image that is named itself is not taken: only the folder stands for all that is in it.
    """
    image = path
    if path.is_dir():
        image = path / "disk.img"
        if not image.exists():
            raise Error("no disk.img in this folder", where=str(path), hint="build one: edge-osbuild build PROFILE")
        if seed is None and (path / "seed.iso").is_file():
            seed = path / "seed.iso"
    return Bootable(image, seed, board or _recorded(image) or default_board(Architecture.native()))


def _recorded(image: Path) -> Board | None:
    """The board that the build was for; older manifests say only the architecture."""
    manifest = Manifest.find(image)
    if manifest is None:
        return None  # an image from elsewhere; --board is there for that
    try:
        return load_board(manifest.board) if manifest.board else default_board(Architecture(manifest.architecture))
    except (OSError, ValueError):
        return None
