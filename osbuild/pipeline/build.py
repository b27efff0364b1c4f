"""Builds a profile's image in its build folder, unless the folder is up to date."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from osbuild.config.board import Board
from osbuild.config.load import LoadedProfile, argument
from osbuild.host import log, output
from osbuild.inputs.build_manifest import Manifest
from osbuild.inputs.context import BuildContext
from osbuild.keys import development
from osbuild.keys.key_folder import KeyFolder
from osbuild.pipeline.image import make_image
from osbuild.pipeline.inputs import find_inputs
from osbuild.pipeline.resolve import current_lock

# Kinds of cache entries that are pruned, the least recently used first. Downloads and Go's own caches are kept.
PRUNED = ("tools", "rootfs", "bases", "kernel", "initrd", "boot", "components", "k3s", "repositories")


@dataclass(frozen=True)
class Build:
    """A finished build: its folder and its manifest. `fresh` is False if the folder already had this build."""

    folder: Path
    manifest: Manifest
    fresh: bool


def build_folder(loaded: LoadedProfile, board: Board, base: Path) -> Path:
    """Return `base/PROFILE-VERSION-BOARD`."""
    return base / f"{loaded.profile.name}-{loaded.profile.version}-{board.name}"


def build_image(
    loaded: LoadedProfile, board: Board, base: Path, context: BuildContext, *, keys: KeyFolder | None = None
) -> Build:
    """Build a profile's image for `board` in its folder below `base`, unless the folder is up to date.

    The image takes updates that are signed with `keys`, by default those that `osbuild.keys.development` chooses.
    Raises `Error`.
    """
    target = build_folder(loaded, board, base)
    with output.new_folder(target):  # reports a folder that can't be written to before the build, which takes minutes
        return _build_into(target, loaded, board, context, keys)


def _build_into(
    target: Path, loaded: LoadedProfile, board: Board, context: BuildContext, keys: KeyFolder | None
) -> Build:
    lock = current_lock(loaded, board, context)
    again = f"to try again: edge-osbuild lock {argument(loaded.files[-1])} --board {board.name}"
    if lock.kubernetes and lock.kubernetes.reason:
        log.warn(
            f"the lock pins Kubernetes {lock.kubernetes.version} instead of "
            f"{lock.kubernetes.requested}: {lock.kubernetes.reason}; {again}"
        )
    if lock.without:
        log.warn(
            f"the lock was written without {', '.join(lock.without)}: the image may lack security updates; {again}"
        )
    inputs = find_inputs(loaded, board, lock, keys or development.signing_keys())
    if manifest := read_unchanged(target, inputs.key):
        return Build(target, manifest, fresh=False)
    with context.cache.locked("build-" + hashlib.sha256(str(target.resolve()).encode()).hexdigest()[:16]):
        # Another process may have made the same build meanwhile, and its disk image may be in use already.
        if manifest := read_unchanged(target, inputs.key):
            return Build(target, manifest, fresh=False)
        manifest = make_image(inputs, target, context)
    context.cache.prune(PRUNED)
    return Build(target, manifest, fresh=True)


def read_unchanged(target: Path, key: str) -> Manifest | None:
    """Return the manifest in `target` if it is of the build with this key and all its files exist."""
    try:
        manifest = Manifest.read(target)
        complete = all((target / name).stat().st_size == file.size for name, file in manifest.files.items())
    except (OSError, ValueError):
        return None
    return manifest if manifest.key == key and complete else None
