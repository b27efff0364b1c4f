"""The seeds that make many nodes of one image: from media made before, or rendered here for each target."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import pycdlib
from pycdlib.pycdlibexception import PyCdlibException

from osbuild.inputs.build_manifest import Manifest
from osbuild.seed.node_seed import make_node_seeds
from osbuild.seed.render import FILES, SUMS
from osbuild.shared.errors import Error, UsageError

MOST = 4 * 2**20  # bytes of one file, as on the device


def check_options(
    targets: int, media: Sequence[Path], nodes: Sequence[str], profile: str | None, settings: Sequence[str], *,
    bmap: Path | None, no_bmap: bool,
) -> None:  # fmt: skip
    """Raises `UsageError` where options of the command line contradict each other."""
    if media and nodes:
        raise UsageError("--seed cannot be combined with --node", hint="a seed already belongs to one node")
    if (profile or settings) and not nodes:
        raise UsageError("--profile and --set are about nodes", hint="give --node NAME too, once for each target")
    if bmap is not None and no_bmap:
        raise UsageError("--bmap cannot be combined with --no-bmap", hint="leave one of them out")
    for option, given in (("--seed", [str(path.resolve()) for path in media]), ("--node", list(nodes))):
        if given and len(given) != targets:
            raise UsageError(
                f"{len(given)} for {targets} targets", where=option, hint=f"give {option} once for each, in their order"
            )
        if len(set(given)) < len(given):
            raise UsageError("the same one twice", where=option, hint="two nodes must not have the same name or seed")


def render_nodes(
    image: Path, profile: str | None, nodes: Sequence[str], settings: Sequence[str]
) -> list[dict[str, bytes]]:  # fmt: skip
    """The files of each node's seed, checked. Raises `Error` or `UsageError` as `edge-osbuild seed` does."""
    if not nodes:
        return []
    return [seed.with_sums() for seed in make_node_seeds(profile or profile_of_image(image), nodes, settings)]


def profile_of_image(image: Path) -> str:
    """Name of the profile that the image's build was made from. Raises `UsageError` where that is not known."""
    manifest = Manifest.find(image)
    if manifest is None or not manifest.name:
        hint = "give --profile, the one that the image was built from"
        raise UsageError(f"no manifest beside {image.name} says what profile it is of", where="--node", hint=hint)
    return manifest.name


def read_seed_iso(path: Path) -> Mapping[str, bytes]:
    """The files of a seed's medium. Raises `Error` if it is not one that a node can use."""
    hint = "make it with `edge-osbuild seed`"
    medium = pycdlib.PyCdlib()
    try:
        medium.open(str(path))
        try:
            label = medium.pvd.volume_identifier.decode("ascii", "replace").strip()
            found = [child for child in medium.list_children(joliet_path="/") if child is not None and child.is_file()]
            names = [f"/{child.file_identifier().decode('utf-16-be')}" for child in found]
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
        raise Error(f"this is not a seed's medium: {error}", where=str(path), hint=hint) from error
    if label.upper() != "CIDATA":
        raise Error(f"this medium is labelled {label or 'nothing'}, not CIDATA", where=str(path), hint=hint)
    kept = {name: files[name] for name in (*FILES, "vendor-data", SUMS) if name in files}
    for name in ("user-data", "meta-data"):
        if not kept.get(name, b"").strip():
            raise Error(f"it has no {name}", where=str(path), hint=hint)
    if large := [name for name, data in kept.items() if len(data) > MOST]:
        raise Error(f"{large[0]} is larger than {MOST} bytes", where=str(path), hint=hint)
    return kept
