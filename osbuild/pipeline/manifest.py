"""The manifest of an image: what is in it, how large each part is, and what the files of the build are."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from osbuild.boot.kernel import Kernel
from osbuild.config.profile import Profile
from osbuild.host import log
from osbuild.host.version import read_version
from osbuild.inputs.debian import Deb
from osbuild.inputs.lock import Lock
from osbuild.kubernetes.component import Component
from osbuild.shared.files import read_file
from osbuild.shared.json_text import parse_json

DEVELOPMENT = (
    "this image trusts DEVELOPMENT keys, so it is not for devices in the field. Make keys of your own with "
    "`edge-osbuild keys init FOLDER`, and build with --keys FOLDER"
)
LARGEST_SHOWN = 10
DATABASE = "usr/lib/sysimage/dpkg/info"


def make_manifest(
    profile: Profile, lock: Lock, system: Path, kernel: Kernel, component: Component | None, files: Mapping[str, Any],
    *, key: str, roothash: str, free: int, trust: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Everything about a build, as JSON can write it. Sizes are in bytes; `free` is what a slot has left, in percent.

    `trust` is whose updates the image takes (`osbuild.image.update_trust`). `builder` is the version of this program
    that made the image. `installed_size` is what a package's files take in the root, before compression.
    """
    packages = [
        {
            "name": deb.name, "version": deb.version, "architecture": deb.architecture, "sha256": deb.sha256,
            "size": deb.size, "installed": installed_size(system, deb),
        }
        for deb in lock.packages
    ]  # fmt: skip
    parts = [{"name": "linux", "version": kernel.release, "size": tree_size(kernel.tree)}]
    if component:
        parts.append({"name": component.name, "version": component.version, "size": tree_size(component.tree)})
        parts[-1].update(
            {**component.facts, **{k: v for k, v in lock.kubernetes.items() if k in ("requested", "because")}}
        )
    sizes = [(str(part["name"]), int(str(part["size"]))) for part in parts]
    sizes += [(str(package["name"]), int(str(package["installed"]))) for package in packages]
    largest = sorted(sizes, key=lambda pair: -pair[1])[:LARGEST_SHOWN]
    return {
        "name": profile.name,
        "version": profile.version,
        "architecture": lock.architecture,
        "board": lock.board,
        "builder": asdict(read_version()),
        "key": key,
        "lock": lock.digest,
        "roothash": roothash,
        "slot_free_percent": free,
        "trust": dict(trust),
        "components": parts,
        "packages": packages,
        "kernel": {"package": lock.kernel.filename, "sha256": lock.kernel.sha256, "release": kernel.release},
        "files": dict(files),
        "largest": [{"name": name, "size": size} for name, size in largest],
        "timings": [{"depth": depth, "step": title, "seconds": round(s, 2)} for depth, title, s in log.timings()],
    }


def trusts_development(image: Path) -> bool:
    """Whether the build that an image belongs to says that it trusts development keys; False if nothing says so."""
    try:
        metadata = parse_json(read_file(image.parent / "manifest.json"))
        return image.name in metadata["files"] and bool(metadata["trust"]["development"])
    except (OSError, KeyError, TypeError, ValueError):
        return False


def installed_size(system: Path, deb: Deb) -> int:
    """Bytes of a package's files in the root, by dpkg's own list of them."""
    for name in (f"{deb.name}.list", f"{deb.name}:{deb.architecture}.list"):
        listed = system / DATABASE / name
        if listed.exists():
            return sum(file_size(system / line.lstrip("/")) for line in listed.read_text().splitlines())
    return 0


def file_size(path: Path) -> int:
    """Bytes of a regular file that is in the image; 0 for anything else."""
    try:
        return path.lstat().st_size if path.is_file() and not path.is_symlink() else 0
    except OSError:
        return 0


def tree_size(tree: Path) -> int:
    """Bytes of all regular files below a folder."""
    return sum(file_size(Path(base, name)) for base, _, names in os.walk(tree) for name in names)


def summarize_build(metadata: Mapping[str, Any], folder: Path, steps: Sequence[tuple[int, str, float]]) -> str:
    """What a person wants to know after a build."""
    mib = 2**20
    lines = [f"{metadata['name']} {metadata['version']} for {metadata['board']}"]
    for name, file in metadata["files"].items():
        lines.append(f"  {folder / name}  {file['used'] / mib:.0f} MiB")
    trust = metadata["trust"]
    lines.append(f"  takes updates of {trust['owner']}" + (", signed with DEVELOPMENT keys" * trust["development"]))
    lines.append(f"  slot A: {100 - metadata['slot_free_percent']} % used, root hash {metadata['roothash'][:16]}…")
    for part in metadata["components"]:
        if "requested" in part:
            lines.append(f"  {part['name']}: {part['distribution']} {part['version']} INSTEAD OF {part['requested']}")
    lines.append(
        "  largest: " + ", ".join(f"{part['name']} {part['size'] / mib:.0f}" for part in metadata["largest"]) + " MiB"
    )
    slow = [f"{title.split(':')[0]} {seconds:.0f} s" for depth, title, seconds in steps if depth < 2 and seconds >= 1]
    if slow:
        lines.append("  time: " + ", ".join(slow))
    lines.append(f"next: edge-osbuild run {folder}")
    return "\n".join(lines)
