"""The versions that updates are tested with: N, N+1, and N+2 that is broken in many ways; builds and bundles by name.

`light` ones have no cluster and boot in half a minute; `server` ones (and `server-k3s`, with K3s) have, and N+1 has the
next Kubernetes. They differ
by an overlay or a kernel argument from what is in the cache, so each takes seconds to build. Made on demand below
`build/test-versions/`, and found there the next time.
"""

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
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

PROFILES = Path(__file__).parents[1] / "profiles"
PLACE = paths.PROJECT / "build/test-versions"
CLUSTERS = {each.flavour: each for each in distributions.ALL.values()}
BASE = {"light": "minimal", **dict.fromkeys(CLUSTERS, "edge-server")}
# Name -> version, and what is laid over the flavour's base: N, N+1, and small steps from N.
STEPS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "n": ("1.0.0", ()),
    "next": ("1.1.0", ("next",)),
    "overlay-only": ("1.0.1", ("overlay-only",)),
    "package-only": ("1.0.2", ("package-only",)),
    "signed": ("1.0.3", ("signed",)),
}
FAULTS = tuple(sorted(path.stem for path in (PROFILES / "faults").glob("*.yaml")))
WITH_CLUSTER = ("never-ready", "no-containerd")
"""faults that only a node with a cluster can have"""


@dataclass(frozen=True)
class Version:
    """One of them: `build` is its folder, made by `Versions.get`."""

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


def number(name: str) -> str:
    """The version of one by name; a broken one is a later one of N+2."""
    if name in STEPS:
        return STEPS[name][0]
    if name not in FAULTS:
        raise KeyError(f"no version is called {name}: there are {', '.join((*STEPS, *FAULTS))}")
    return f"1.2.{FAULTS.index(name)}"


def text(name: str, flavour: str) -> str:
    """The profile of one, as YAML."""
    over = list(STEPS[name][1]) if name in STEPS else ["next", f"faults/{name}"]
    lines = [f"name: test-{flavour}", f"version: {number(name)}"]
    if cluster := CLUSTERS.get(flavour):
        release = cluster.releases[-1] if "next" in over else cluster.releases[0]
        lines += ["kubernetes:", *distributions.wanted(cluster, release)]
        over += ["faults-server"] if name in FAULTS else []
    base = "server" if cluster else flavour
    return "\n".join([*lines, "extends:", *(f"- {PROFILES}/{each}.yaml" for each in (base, *over))]) + "\n"


def derived(base: locks.Lock, names: Sequence[str], loaded: LoadedProfile, board: Board, cache: Cache) -> locks.Lock:
    """The lock of a profile that asks for what `base` pins and perhaps a few packages more. No network is needed.

    A package that is not in `base` is the one of the archive's index at hand, and is fetched when it is built.
    """
    known = {deb.name for deb in base.packages}
    packages = base.packages
    if missing := [name for name in names if name not in known]:
        archive = PackageArchive(cache, board.architecture)
        if not (archive.root / "var/lib/apt/lists").exists():
            archive.update_index()
        packages += tuple(deb for deb in archive.resolve_packages(missing) if deb.name not in known)
    pinned = resolve.pin_kubernetes(loaded.profile.kubernetes, board.architecture, BuildContext(cache))
    request = resolve.request_key(loaded, board)
    return replace(base, packages=tuple(sorted(packages)), kubernetes=pinned, request=request)


def changed(version: Version, facts: Mapping[str, Any]) -> BundleSource:
    """A build as the source of a bundle, with other facts about itself."""
    made = source.read_build(version.build)
    return replace(made, manifest=parse_record(Manifest, {**made.manifest.to_json(), **facts}))


class Versions:
    """Builds and bundles for one board, signed with keys of their own."""

    def __init__(self, board: Board | None = None, place: Path = PLACE, cache: Cache | None = None) -> None:
        self.board = board or load_board("x86_64")
        self.place, self.cache = place, cache or Cache()

    @property
    def keys(self) -> KeyFolder:
        """The keys that these images trust. Their first signer is revoked, the second signs."""
        folder = self.place / "keys"
        if not folder.exists():
            self._make_keys(folder)
            shutil.copytree(folder, self.lost_keys)
            authority.rotate_signer(folder, PrivateKeyAccess())
            authority.revoke_key(folder, "signer-1", PrivateKeyAccess(), reason="compromised")
        return load_keys(folder)

    @property
    def lost_keys(self) -> Path:
        """The key folder as it was before its signer was revoked: what a thief has."""
        return self.place / "lost-keys"

    @property
    def strange_keys(self) -> KeyFolder:
        """Keys that nobody trusts."""
        folder = self.place / "strange-keys"
        return load_keys(folder) if folder.exists() else self._make_keys(folder)

    def get(self, name: str, flavour: str = "light", *, bundle: bool = True) -> Version:
        """The version of that name, built, and with a bundle where one is wanted."""
        found = self.named(name, flavour)
        profile = self.profile(name, flavour)
        command: list[Argument] = [
            sys.executable,
            "-m",
            "osbuild",
            "build",
            profile,
            "--board",
            self.board.name,
            "-o",
            self.place,
        ]
        env = {**os.environ, "EDGE_OSBUILD_KEYS": str(self.keys.folder)}
        run_command([*command, "--locked"], cwd=paths.PROJECT, env=env)
        parts = (found.build / "manifest.json", Path(hook.__file__))
        fresh = found.bundle.exists() and found.bundle.stat().st_mtime > max(part.stat().st_mtime for part in parts)
        if bundle and not fresh:
            self.sign(found, found.bundle)
        return found

    def sign(
        self, version: Version, output: Path, keys: KeyFolder | None = None, /, *, downgrade: str = "", **facts: Any
    ) -> Path:
        """Make a bundle of a build that is there; `facts` replace what the build says of itself.

        Devices that run the version `downgrade` may take it although it is older.
        """
        signed = signing.prepare_signing(keys or self.keys, bundle_tools(self.cache))
        pack.make_bundle(replace(changed(version, facts), downgrade=downgrade), output, signed, self.cache)
        return output

    def named(self, name: str, flavour: str = "light") -> Version:
        """The same, not built yet perhaps."""
        version = number(name)
        return Version(name, flavour, version, self.place / f"test-{flavour}-{version}-{self.board.name}")

    def profile(self, name: str, flavour: str) -> Path:
        """Its profile, written with a lock that follows from that of the shipped profile."""
        path = self.place / "profiles" / f"{flavour}-{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        wanted = text(name, flavour)
        if not path.exists() or path.read_text() != wanted:
            path.write_text(wanted)
        loaded, shipped = load_profile(path), load_profile(find_profile(BASE[flavour]))
        base = resolve.current_lock(shipped, self.board, BuildContext(self.cache))
        names = resolve.wanted_packages(loaded, base.kubernetes.get("distribution"))
        new = derived(base, names, loaded, self.board, self.cache)
        if locks.read_lock(loaded, self.board.name) != new:
            locks.save_lock(loaded, new)
        return path

    def _make_keys(self, folder: Path) -> KeyFolder:
        folder.parent.mkdir(parents=True, exist_ok=True)
        return authority.create_keys(folder, f"edge-osbuild tests: {folder.name}", PrivateKeyAccess())
