"""The contents of a bundle: RAUC's manifest, images, boot images and metadata of the build."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from osbuild.bundle import blocks, hook
from osbuild.bundle.source import BundleSource
from osbuild.image.rauc_config import render_key_file

# Keys of the build manifest that `inspect` and devices use. Timings and the checksums of the disk image are left out,
# because they would make two bundles of equal builds differ.
METADATA_KEYS = (
    "name", "version", "architecture", "board", "key", "lock", "roothash", "components", "packages", "kernel",
    "trust", "change_owner",
)  # fmt: skip


def render_manifest(source: BundleSource) -> str:
    """Return the bundle manifest (RAUC's manual, "Manifest")."""
    manifest = source.manifest
    cluster = next((part for part in manifest.components if part.distribution), None)
    meta = {
        "architecture": manifest.architecture, "board": source.board, "roothash": manifest.roothash,
        "kernel": manifest.kernel.release,
        "kubernetes": f"{cluster.distribution} {cluster.version}" if cluster else "",
        "downgrade": source.downgrade, "roots": " ".join(manifest.trusted_roots),
        "change-owner": "yes" if source.change_owner else "",
    }  # fmt: skip
    # The boot image is installed first, because the slot must not be bootable while its root is overwritten. The suffix
    # of a file name gives RAUC the type of an image.
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
    if source.indexed:  # the hook makes the adaptive index of the root on the device, from the hash tree
        sections["image.root"]["hooks"] = "pre-install"
    return render_key_file(sections)


def build_metadata(source: BundleSource) -> dict[str, Any]:
    """Return the part of the build manifest that is stored in the bundle."""
    metadata = replace(source.manifest, change_owner=source.change_owner).to_json()
    return {name: metadata[name] for name in METADATA_KEYS if name in metadata}


def write_content(source: BundleSource, folder: Path) -> None:
    """Write the contents of a bundle to the empty `folder`. Raises `OSError`."""
    for path, name in ((source.root, "root.img"), (source.hash_tree, "verity.img")):
        link_or_copy(path, folder / name)
    blocks.store_blocks(source.boot, source.boot_folder, folder)
    shutil.copyfile(hook.__file__, folder / "hook")
    (folder / "build.json").write_text(json.dumps(build_metadata(source), sort_keys=True) + "\n")
    (folder / "manifest.raucm").write_text(render_manifest(source))


def link_or_copy(path: Path, target: Path) -> None:
    """Create `target` as a hard link to `path`, or as a copy if that is not possible."""
    try:
        os.link(path, target)
    except OSError:
        shutil.copyfile(path, target)
