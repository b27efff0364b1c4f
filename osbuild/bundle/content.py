"""What is in a bundle: the manifest that RAUC reads, images, boot files, and what the build says about itself."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from osbuild.bundle import blocks, hook, trust
from osbuild.bundle.source import BundleSource
from osbuild.image.rauc_config import render_key_file

# What `inspect` and a device want to know of a build before they touch it. Timings and the disk image's sums, which
# are not in a bundle, would only make two bundles of one build differ.
METADATA_KEYS = (
    "name", "version", "architecture", "board", "key", "lock", "roothash", "components", "packages", "kernel",
    "trust",
)  # fmt: skip


def render_manifest(source: BundleSource) -> str:
    """The bundle's manifest (RAUC's manual, "Manifest").

    The boot file comes first: as soon as the root is being overwritten, nothing may boot the slot. The root and its
    hash tree have the type that their names' suffix gives them; an index by block makes small changes cheap. That of
    the root is made on the device, by the hook, where the hash tree is one that it can be made from.
    """
    cluster: Mapping[str, Any] = next(
        (part for part in source.facts.get("components", []) if "distribution" in part), {}
    )
    meta = {
        "architecture": source.facts["architecture"], "board": source.board, "roothash": source.facts["roothash"],
        "kernel": source.facts.get("kernel", {}).get("release", ""),
        "kubernetes": f"{cluster['distribution']} {cluster['version']}" if cluster else "",
        "downgrade": source.downgrade, "roots": " ".join(trust.trusted_roots(source.facts)),
        "change-owner": "yes" if source.change_owner else "",
    }  # fmt: skip
    sections = {
        "update": {
            "compatible": source.compatible, "version": source.version, "build": str(source.facts.get("key", "")),
        },
        "bundle": {"format": "verity"},
        "hooks": {"filename": "hook"},
        "image.boot": {"filename": "boot.blocks", "hooks": "install"},
        "image.root": {"filename": "root.img", "adaptive": "block-hash-index"},
        "image.verity": {"filename": "verity.img", "adaptive": "block-hash-index"},
        "meta.edge": {name: value for name, value in meta.items() if value},
    }  # fmt: skip
    if source.indexed:
        sections["image.root"]["hooks"] = "pre-install"
    return render_key_file(sections)


def build_metadata(source: BundleSource) -> dict[str, Any]:
    """What the build says about itself, as the bundle carries it."""
    found = {name: source.facts[name] for name in METADATA_KEYS if name in source.facts}
    return found | {"change_owner": True} if source.change_owner else found


def write_content(source: BundleSource, folder: Path) -> None:
    """Lay out all of it in the empty `folder`."""
    for path, name in ((source.root, "root.img"), (source.tree, "verity.img")):
        link_or_copy(path, folder / name)
    blocks.store_blocks(source.boot, source.boot_folder, folder)
    shutil.copyfile(hook.__file__, folder / "hook")
    (folder / "build.json").write_text(json.dumps(build_metadata(source), sort_keys=True) + "\n")
    (folder / "manifest.raucm").write_text(render_manifest(source))


def link_or_copy(path: Path, target: Path) -> None:
    """The same file at `target`, without a copy where the file system allows it."""
    try:
        os.link(path, target)
    except OSError:
        shutil.copyfile(path, target)
