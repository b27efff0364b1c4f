"""The versions for tests of updates: N, N+1, and N+2 with one of many faults; builds and bundles by name.

The flavour `light` has no cluster and boots in half a minute. `server`, and `server-k3s` with K3s, have a cluster, and
N+1 has the next Kubernetes. Versions differ by an overlay or a kernel argument from cached builds, so that each builds
in seconds. They are built on demand in `build/test-versions/` and kept there.
"""

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from osbuild.bundle import hook, pack, signing, source
from osbuild.bundle.source import BundleSource
from osbuild.config.board import Board, load_board
from osbuild.config.load import LoadedProfile, find_profile, load_profile
from osbuild.host import paths
from osbuild.host.cache import Cache
from osbuild.host.run import Argument, run_command
from osbuild.inputs import lock as locks
from osbuild.inputs.build_manifest import Manifest
from osbuild.inputs.context import BuildContext
from osbuild.inputs.debian import PackageArchive
from osbuild.keys import authority
from osbuild.keys.authority import PrivateKeyAccess
from osbuild.keys.key_folder import KeyFolder, load_keys
from osbuild.pipeline import resolve
from osbuild.sandbox.bundle_tools import bundle_tools
from osbuild.shared.records import parse_record
from support import distributions
from support.exclusive import hold_lock

PROFILES = Path(__file__).parents[1] / "profiles"
FOLDER = paths.PROJECT / "build/test-versions"
CLUSTERS = {each.flavour: each for each in distributions.ALL.values()}
BASE = {"light": "minimal", **dict.fromkeys(CLUSTERS, "edge-server")}
# Name -> version, and the profiles that extend the flavour's base: N, N+1, and small steps from N.
STEPS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "n": ("1.0.0", ()),
    "next": ("1.1.0", ("next",)),
    "overlay-only": ("1.0.1", ("overlay-only",)),
    "package-only": ("1.0.2", ("package-only",)),
    "signed": ("1.0.3", ("signed",)),
}
FAULTS = tuple(sorted(path.stem for path in (PROFILES / "faults").glob("*.yaml")))
WITH_CLUSTER = ("never-ready", "no-containerd")
"""faults that need a cluster"""


@dataclass(frozen=True)
class Version:
    """One version: `build` is its build folder, made by `Versions.get`."""

    name: str
    flavour: str
    version: str
    build: Path

    @property
    def image(self) -> Path:
        return self.build / "disk.img"

    @property
    def bundle(self) -> Path:
        return self.build / "bundle.raucb"


def version_number(name: str) -> str:
    """Return the version number of a name; faulty versions are 1.2.0 and later. Raises `KeyError`."""
    if name in STEPS:
        return STEPS[name][0]
    if name not in FAULTS:
        raise KeyError(f"no version is called {name}: there are {', '.join((*STEPS, *FAULTS))}")
    return f"1.2.{FAULTS.index(name)}"


def profile_text(name: str, flavour: str) -> str:
    """Return the profile of a version, as YAML."""
    layers = list(STEPS[name][1]) if name in STEPS else ["next", f"faults/{name}"]
    lines = [f"name: test-{flavour}", f"version: {version_number(name)}"]
    if cluster := CLUSTERS.get(flavour):
        release = cluster.releases[-1] if "next" in layers else cluster.releases[0]
        lines += ["kubernetes:", *distributions.profile_lines(cluster, release)]
        layers += ["faults-server"] if name in FAULTS else []
    base = "server" if cluster else flavour
    return "\n".join([*lines, "extends:", *(f"- {PROFILES}/{layer}.yaml" for layer in (base, *layers))]) + "\n"


def derive_lock(
    base: locks.Lock, names: Sequence[str], loaded: LoadedProfile, board: Board, cache: Cache
) -> locks.Lock:
    """Derive the lock of a profile from `base`, which lacks at most a few of its packages. Needs no network.

    A package that is not in `base` is taken from the current index of the archive, and downloaded by the build.
    """
    locked = {deb.name for deb in base.packages}
    packages = base.packages
    if missing := [name for name in names if name not in locked]:
        archive = PackageArchive(cache, board.architecture)
        if not (archive.root / "var/lib/apt/lists").exists():
            archive.update_index()
        packages += tuple(deb for deb in archive.resolve_packages(missing) if deb.name not in locked)
    pinned = resolve.pin_kubernetes(loaded.profile.kubernetes, board.architecture, BuildContext(cache))
    request = resolve.request_key(loaded, board)
    return replace(base, packages=tuple(sorted(packages)), kubernetes=pinned, request=request)


def source_with_metadata(version: Version, metadata: Mapping[str, Any]) -> BundleSource:
    """Return a build as the source of a bundle, with other metadata."""
    build_source = source.read_build(version.build)
    return replace(build_source, manifest=parse_record(Manifest, {**build_source.manifest.to_json(), **metadata}))


class Versions:
    """Builds and bundles for one board, signed with their own keys."""

    def __init__(self, board: Board | None = None, folder: Path = FOLDER, cache: Cache | None = None) -> None:
        self.board = board or load_board("x86_64")
        self.folder, self.cache = folder, cache or Cache()

    @property
    def keys(self) -> KeyFolder:
        """The keys that these images trust. Their first signer is revoked, and the second signs."""
        folder = self.folder / "keys"
        with self._hold_lock("keys"):
            if not folder.exists():
                self._make_keys(folder)
                shutil.copytree(folder, self.lost_keys)
                authority.rotate_signer(folder, PrivateKeyAccess())
                authority.revoke_key(folder, "signer-1", PrivateKeyAccess(), reason="compromised")
        return load_keys(folder)

    @property
    def lost_keys(self) -> Path:
        """A copy of the key folder from before its signer was revoked, as a thief has it."""
        return self.folder / "lost-keys"

    @property
    def strange_keys(self) -> KeyFolder:
        """Keys that no image trusts."""
        folder = self.folder / "strange-keys"
        with self._hold_lock("strange-keys"):
            return load_keys(folder) if folder.exists() else self._make_keys(folder)

    def get(self, name: str, flavour: str = "light", *, bundle: bool = True) -> Version:
        """Build the version of that name, and with `bundle` also its bundle, unless they exist."""
        version = self.lookup(name, flavour)
        profile = self.profile(name, flavour)
        command: list[Argument] = [
            *(sys.executable, "-m", "osbuild", "build", profile),
            *("--board", self.board.name, "-o", self.folder, "--locked"),
        ]
        env = {**os.environ, "EDGE_OSBUILD_KEYS": str(self.keys.folder)}
        run_command(command, cwd=paths.PROJECT, env=env)
        with self._hold_lock(version.build.name):
            inputs = (version.build / "manifest.json", Path(hook.__file__))
            fresh = version.bundle.exists() and version.bundle.stat().st_mtime > max(
                path.stat().st_mtime for path in inputs
            )
            if bundle and not fresh:
                self.sign(version, version.bundle)
        return version

    def sign(
        self, version: Version, output: Path, keys: KeyFolder | None = None, /, *, downgrade: str = "", **metadata: Any
    ) -> Path:
        """Make a bundle of an existing build; `metadata` replaces keys of its manifest.

        Devices that run the version `downgrade` may install it although it is older.
        """
        signer = signing.prepare_signing(keys or self.keys, bundle_tools(self.cache))
        pack.make_bundle(
            replace(source_with_metadata(version, metadata), downgrade=downgrade), output, signer, self.cache
        )
        return output

    def lookup(self, name: str, flavour: str = "light") -> Version:
        """Return the version of that name, which may not be built yet."""
        version = version_number(name)
        return Version(name, flavour, version, self.folder / f"test-{flavour}-{version}-{self.board.name}")

    def profile(self, name: str, flavour: str) -> Path:
        """Write the profile of a version, with a lock that is derived from the shipped profile's."""
        path = self.folder / "profiles" / f"{flavour}-{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        content, shipped = profile_text(name, flavour), load_profile(find_profile(BASE[flavour]))
        base = resolve.current_lock(shipped, self.board, BuildContext(self.cache))
        with self._hold_lock(path.stem):
            if not path.exists() or path.read_text() != content:
                path.write_text(content)
            loaded, pinned = load_profile(path), base.kubernetes
            names = resolve.wanted_packages(loaded, pinned.distribution if pinned else None)
            new = derive_lock(base, names, loaded, self.board, self.cache)
            if locks.read_lock(loaded, self.board.name) != new:
                locks.save_lock(loaded, new)
        return path

    def _hold_lock(self, name: str) -> AbstractContextManager[None]:
        """Hold a lock of `folder`, which several processes that run tests may use."""
        return hold_lock(name, folder=self.folder / "locks")

    def _make_keys(self, folder: Path) -> KeyFolder:
        folder.parent.mkdir(parents=True, exist_ok=True)
        return authority.create_keys(folder, f"edge-osbuild tests: {folder.name}", PrivateKeyAccess())
