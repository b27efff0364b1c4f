"""The seeds for targets of one image: read from seed media, or rendered for each node."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pycdlib
from pycdlib.pycdlibexception import PyCdlibException

from osbuild.inputs.build_manifest import Manifest
from osbuild.seed.node_seed import make_node_seeds
from osbuild.seed.render import FILES, SUMS
from osbuild.shared.errors import Error, UsageError

MAX_SIZE = 4 * 2**20  # bytes of one file, as on the device


@dataclass(frozen=True)
class SeedSources:
    """The seeds of targets: seed `media`, or `nodes` of a profile with `settings` (`--set`). One for each target."""

    media: tuple[Path, ...]
    nodes: tuple[str, ...]
    profile: str | None
    settings: tuple[str, ...]


def check_options(targets: int, sources: SeedSources, *, bmap: Path | None, no_bmap: bool) -> None:
    """Raise `UsageError` if options of the command line contradict each other."""
    media, nodes = sources.media, sources.nodes
    if media and nodes:
        raise UsageError("--seed cannot be combined with --node", hint="a seed already names its node")
    if (sources.profile or sources.settings) and not nodes:
        raise UsageError("--profile and --set need --node", hint="pass --node NAME too, once for each target")
    if bmap is not None and no_bmap:
        raise UsageError("--bmap cannot be combined with --no-bmap", hint="pass only one of them")
    for option, values in (("--seed", [str(path.resolve()) for path in media]), ("--node", list(nodes))):
        if values and len(values) != targets:
            raise UsageError(
                f"{len(values)} for {targets} targets",
                where=option,
                hint=f"pass {option} once for each, in the same order",
            )
        if len(set(values)) < len(values):
            raise UsageError("the same value twice", where=option, hint="two nodes must not have the same name or seed")


def render_nodes(image: Path, sources: SeedSources) -> list[dict[str, bytes]]:
    """Render and check the seed files of each node. Raises `Error` or `UsageError` like `edge-osbuild seed`."""
    if not sources.nodes:
        return []
    profile = sources.profile or profile_of_image(image)
    return [seed.with_sums() for seed in make_node_seeds(profile, sources.nodes, sources.settings)]


def profile_of_image(image: Path) -> str:
    """Return the name of the profile in the manifest beside an image. Raises `UsageError` if there is none."""
    manifest = Manifest.find(image)
    if manifest is None or not manifest.name:
        hint = "pass --profile with the profile that the image was built from"
        raise UsageError(f"no manifest beside {image.name} names the image's profile", where="--node", hint=hint)
    return manifest.name


def read_seed_iso(path: Path) -> Mapping[str, bytes]:
    """Read the files of a seed medium. Raises `Error` if a node can't use it."""
    hint = "make it with `edge-osbuild seed`"
    medium = pycdlib.PyCdlib()
    try:
        medium.open(str(path))
        try:
            label = medium.pvd.volume_identifier.decode("ascii", "replace").strip()
            children = [
                child for child in medium.list_children(joliet_path="/") if child is not None and child.is_file()
            ]
            names = [f"/{child.file_identifier().decode('utf-16-be')}" for child in children]
            files = {}
            for name in names:
                data = io.BytesIO()
                medium.get_file_from_iso_fp(data, joliet_path=name)
                files[name.lstrip("/")] = data.getvalue()
        finally:
            medium.close()
    except OSError as error:
        raise Error(f"cannot read the seed: {error.strerror}", where=str(path), hint=hint) from error
    except PyCdlibException as error:
        raise Error(f"this is not a seed medium: {error}", where=str(path), hint=hint) from error
    if label.upper() != "CIDATA":
        raise Error(f"this medium is labelled {label or 'nothing'}, not CIDATA", where=str(path), hint=hint)
    seed_files = {name: files[name] for name in (*FILES, "vendor-data", SUMS) if name in files}
    for name in ("user-data", "meta-data"):
        if not seed_files.get(name, b"").strip():
            raise Error(f"this medium has no {name}", where=str(path), hint=hint)
    if large := [name for name, data in seed_files.items() if len(data) > MAX_SIZE]:
        raise Error(f"{large[0]} is larger than {MAX_SIZE} bytes", where=str(path), hint=hint)
    return seed_files
