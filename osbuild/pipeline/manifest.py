"""Makes the build manifest, and the summary of a build for the user."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from osbuild.boot.kernel import Kernel
from osbuild.config.profile import Profile
from osbuild.host import log
from osbuild.host.version import read_version
from osbuild.inputs.build_manifest import (
    BuilderRecord,
    ComponentRecord,
    FileRecord,
    KernelRecord,
    LargePart,
    Manifest,
    PackageRecord,
    StepTime,
    TrustRecord,
)
from osbuild.inputs.debian import Deb
from osbuild.inputs.lock import Lock
from osbuild.kubernetes.component import Component
from osbuild.shared.records import parse_record
from osbuild.shared.sizes import format_bytes

DEVELOPMENT = (
    "this image trusts DEVELOPMENT keys, so it is not for devices in the field. Create your own keys with "
    "`edge-osbuild keys init FOLDER`, and build with --keys FOLDER"
)
UNKNOWN_TRUST = (
    "it is not known whose updates this image accepts: without the manifest.json of its build beside it, it may trust "
    "DEVELOPMENT keys, which are not for devices in the field. Copy manifest.json from the build folder"
)
LARGEST_SHOWN = 10
DATABASE = "usr/lib/sysimage/dpkg/info"


@dataclass(frozen=True)
class BuiltImage:
    """The results of a build: the root as a folder, its parts, the files. `free`: percent of a slot that are free."""

    system: Path
    kernel: Kernel
    component: Component | None
    files: Mapping[str, FileRecord]
    root_hash: str
    free: int


def make_manifest(profile: Profile, lock: Lock, built: BuiltImage, *, key: str, trust: TrustRecord) -> Manifest:
    """Everything about a build. Sizes are in bytes.

    `trust` describes the keyring (`osbuild.image.update_trust`).
    """
    kernel, component = built.kernel, built.component
    packages = tuple(
        PackageRecord(
            name=deb.name, version=deb.version, architecture=deb.architecture, sha256=deb.sha256, size=deb.size,
            installed=installed_size(built.system, deb),
        )
        for deb in lock.packages
    )  # fmt: skip
    components = [ComponentRecord(name="linux", version=kernel.release, size=tree_size(kernel.file_tree))]
    if component:
        pinned = lock.kubernetes
        replaced = {"requested": pinned.requested, "because": pinned.reason} if pinned else {}
        size = tree_size(component.file_tree)
        plain = {"name": component.name, "version": component.version, "size": size, **component.metadata, **replaced}
        components.append(parse_record(ComponentRecord, plain))
    parts = [LargePart(name=component.name, size=component.size or 0) for component in components]
    parts += [LargePart(name=package.name, size=package.installed or 0) for package in packages]
    return Manifest(
        name=profile.name,
        version=profile.version,
        architecture=lock.architecture,
        board=lock.board,
        builder=BuilderRecord(**asdict(read_version())),
        key=key,
        lock=lock.digest,
        roothash=built.root_hash,
        slot_free_percent=built.free,
        trust=trust,
        components=tuple(components),
        packages=packages,
        kernel=KernelRecord(package=lock.kernel.filename, sha256=lock.kernel.sha256, release=kernel.release),
        files=built.files,
        largest=tuple(sorted(parts, key=lambda part: -(part.size or 0))[:LARGEST_SHOWN]),
        timings=tuple(StepTime(depth=depth, step=title, seconds=round(s, 2)) for depth, title, s in log.timings()),
    )


def trusts_development(image: Path) -> bool | None:
    """Whether the manifest beside an image says that it trusts development keys; None if it says nothing about it."""
    manifest = Manifest.find(image)
    return None if manifest is None or image.name not in manifest.files else bool(manifest.trust.development)


def installed_size(system: Path, deb: Deb) -> int:
    """Return the bytes of a package's files in the root, uncompressed, from dpkg's list of them."""
    for name in (f"{deb.name}.list", f"{deb.name}:{deb.architecture}.list"):
        file_list = system / DATABASE / name
        if file_list.exists():
            return sum(file_size(system / line.lstrip("/")) for line in file_list.read_text().splitlines())
    return 0


def file_size(path: Path) -> int:
    """Return the bytes of a regular file in the image; 0 if it is missing or not a regular file."""
    try:
        return path.lstat().st_size if path.is_file() and not path.is_symlink() else 0
    except OSError:
        return 0


def tree_size(tree: Path) -> int:
    """Return the bytes of all regular files below a folder."""
    return sum(file_size(Path(base, name)) for base, _, names in os.walk(tree) for name in names)


def summarize_build(manifest: Manifest, folder: Path, steps: Sequence[tuple[int, str, float]]) -> list[str]:
    """Return the lines that are printed after a build. `steps` are (depth, title, seconds)."""
    lines = [f"{manifest.name} {manifest.version} for {manifest.board}"]
    for name, file in manifest.files.items():
        lines.append(f"  {folder / name}  {format_bytes(file.used)}")
    signed = ", signed with DEVELOPMENT keys" if manifest.trust.development else ""
    lines.append(f"  accepts updates of {manifest.trust.owner}{signed}")
    if manifest.slot_free_percent is not None:
        used = 100 - manifest.slot_free_percent
        lines.append(f"  slot A: {used} % used, root hash {manifest.roothash[:16]}…")
    for part in manifest.components:
        if part.requested is not None:
            lines.append(f"  {part.name}: {part.distribution} {part.version} INSTEAD OF {part.requested}")
    largest = ", ".join(f"{part.name} {format_bytes(part.size)}" for part in manifest.largest)
    lines.append(f"  largest: {largest}")
    slow = [f"{title.split(':')[0]} {seconds:.0f} s" for depth, title, seconds in steps if depth < 2 and seconds >= 1]
    if slow:
        lines.append("  time: " + ", ".join(slow))
    lines.append(f"next: edge-osbuild run {folder}")
    return lines
