"""The site of measurements: a scratch folder with copies of profiles, and the command line as a user runs it.

Images are built into the scratch folder too, so that a measurement never replaces an image that is in use.
"""

import os
import shutil
import sys
import time
from collections.abc import Mapping
from functools import cache as once
from pathlib import Path
from typing import Any

import yaml

from osbuild.config.load import LoadedProfile, find_profile, load_profile
from osbuild.host import log, paths
from osbuild.host.cache import Cache
from osbuild.host.run import Argument, run_command
from osbuild.inputs.build_manifest import Manifest
from osbuild.inputs.lock import lock_path
from osbuild.qemu.ssh import KeyPair
from osbuild.shared.errors import Error

NODE = "bench"
"""name of the node and of its user"""


class BenchSite:
    """`folder` is empty at first, and removed by its creator; `results` is for logs and pictures to keep."""

    def __init__(self, folder: Path, results: Path, cache: Cache) -> None:
        self.folder = folder
        self.results = results
        self.cache = cache
        self.output = folder / "build"
        self.image = once(self._image)
        self._copied = once(self._copy)
        self.key = once(lambda: KeyPair.generate(folder / "key"))

    def profile(self, name: str, base: str, changes: Mapping[str, Any], *, lock: bool = True) -> Path:
        """Write `NAME/BASE.yaml`, which extends the shipped profile `base`; with `lock`, with a copy of its lock."""
        shipped = load_profile(find_profile(base))
        path = self.folder / name / f"{base}.yaml"
        path.parent.mkdir(exist_ok=True)
        user = {"name": NODE, "sudo": True, "ssh_keys": [self.key().public]}
        tree = {"name": base, "version": shipped.profile.version, "extends": base, "users": [user], **changes}
        path.write_text(yaml.safe_dump(tree, sort_keys=False))
        if lock and lock_path(shipped).exists():
            shutil.copy(lock_path(shipped), lock_path(load_profile(path)))
        return path

    def overlays(self, name: str, base: str) -> list[str]:
        """Copy the overlays of the shipped profile `base` beside the profile `name`. Returns the key `overlays`."""
        loaded = load_profile(find_profile(base))
        for overlay in loaded.profile.overlays:
            source = paths.overlay_path(overlay, loaded.folder)
            shutil.copytree(source, self.folder / name / "overlays" / source.name, symlinks=True)
        return [f"./overlays/{paths.overlay_path(overlay, loaded.folder).name}" for overlay in loaded.profile.overlays]

    def command(self, *arguments: Argument, cache: Path | None = None) -> float:
        """Run `edge-osbuild` in a process of its own; returns the seconds from its start to its end. Raises `Error`."""
        env = {**os.environ, "EDGE_OSBUILD_CACHE": str(cache or self.cache.root)}
        begin = time.monotonic()
        run_command([sys.executable, "-m", "osbuild", *arguments], cwd=paths.PROJECT, env=env)
        return time.monotonic() - begin

    def build(self, profile: Path, *, board: str | None = None, cache: Path | None = None) -> float:
        """Build `profile` into `folder_of(profile, board)`; returns seconds."""
        options = ["--board", board] if board else []
        return self.command("build", profile, *options, "-o", self.output / profile.parent.name, cache=cache)

    def seed(self, profile: Path) -> tuple[Path, float]:
        """Make the seed of the node that `profile` describes. Returns its path and the seconds."""
        path = profile.with_name("seed.iso")
        return path, self.command("seed", profile, "--node", NODE, "-o", path)

    def folder_of(self, profile: Path, board: str | None = None) -> Path:
        """Return the build folder of `profile`, for `board` or for the profile's own architecture."""
        loaded: LoadedProfile = load_profile(profile)
        settings = loaded.profile
        return (
            self.output / profile.parent.name / f"{settings.name}-{settings.version}-{board or settings.architecture}"
        )

    def manifest(self, profile: Path, board: str | None = None) -> Manifest:
        """Read the manifest of a built image. Raises `Error`."""
        folder = self.folder_of(profile, board)
        try:
            return Manifest.read(folder)
        except (OSError, ValueError) as error:
            raise Error(f"the build has left no manifest: {error}", where=str(folder)) from error

    def _image(self, base: str, board: str | None = None) -> Path:
        """Build the image of a copy of the shipped profile `base` with its overlays. Returns the profile (cached)."""
        with log.step(f"image of {base}" + (f" for {board}" if board else "")):
            path = self._copied(base)
            self.build(path, board=board)
        return path

    def _copy(self, base: str) -> Path:
        name = f"image-{base}"
        (self.folder / name).mkdir()
        return self.profile(name, base, {"overlays": self.overlays(name, base)})
