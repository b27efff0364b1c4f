"""What is in a bundle: the manifest that RAUC reads, images, boot files, and what the build says about itself."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from osbuild.bundle import blocks, hook
from osbuild.bundle.source import BundleSource
from osbuild.image.rauc_config import render_key_file

# What `inspect` and a device want to know of a build before they touch it. Timings and the disk image's sums, which
# are not in a bundle, would only make two bundles of one build differ.
METADATA_KEYS = (
    "name", "version", "architecture", "board", "key", "lock", "roothash", "components", "packages", "kernel",
    "trust", "change_owner",
)  # fmt: skip


def render_manifest(source: BundleSource) -> str:
    """The bundle's manifest (RAUC's manual, "Manifest").

    The boot file comes first: as soon as the root is being overwritten, nothing may boot the slot. The root and its
    hash tree have the type that their names' suffix gives them; an index by block makes small changes cheap. That of
    the root is made on the device, by the hook, where the hash tree is one that it can be made from.
    """
    manifest = source.manifest
    cluster = next((part for part in manifest.components if part.distribution), None)
    meta = {
        "architecture": manifest.architecture, "board": source.board, "roothash": manifest.roothash,
        "kernel": manifest.kernel.release,
        "kubernetes": f"{cluster.distribution} {cluster.version}" if cluster else "",
        "downgrade": source.downgrade, "roots": " ".join(manifest.trusted_roots),
        "change-owner": "yes" if source.change_owner else "",
    }  # fmt: skip
    sections = {
        "update": {
            "compatible": source.compatible, "version": source.version, "build": manifest.key,
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
    metadata = replace(source.manifest, change_owner=source.change_owner).to_json()
    return {name: metadata[name] for name in METADATA_KEYS if name in metadata}


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
