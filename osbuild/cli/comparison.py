"""How `edge-osbuild inspect` shows a bundle, and what an update would change."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from osbuild.bundle.info import BundleInfo
from osbuild.cli.table import align_columns
from osbuild.host.paths import display_path
from osbuild.inputs.build_manifest import Manifest
from osbuild.inspection.update_changes import Change, Comparison, Delta
from osbuild.shared.sizes import format_bytes


def info_json(info: BundleInfo) -> dict[str, Any]:
    """A bundle as JSON can write it."""
    return {**asdict(info), "path": str(info.path)}


def info_lines(info: BundleInfo) -> Iterator[str]:
    """A bundle for people."""
    yield f"{display_path(info.path)}: {format_bytes(info.size)}, {info.version} for {info.compatible}"
    if info.signer:
        yield f"  signed by {info.signer}"
    if info.problem:
        yield f"  {'PROBLEM' if info.signer else 'signature'}: {info.problem}"
    yield from (
        "",
        "Images",
        *align_columns([(name, format_bytes(size)) for name, size in info.images.items()], right=(1,)),
    )
    if info.meta:
        yield from ("", "Build", *align_columns([(name, value) for name, value in info.meta.items()]))


def comparison_json(found: Comparison) -> dict[str, Any]:
    """A comparison as JSON can write it; sizes are in bytes."""

    def delta(part: Delta) -> dict[str, Any]:
        return {**asdict(part), "percent": round(part.percent, 2)}

    def name(manifest: Manifest) -> dict[str, str]:
        return {key: getattr(manifest, key) for key in ("name", "version", "architecture", "roothash")}

    return {
        "old": {"path": str(found.old.path), "compatible": found.old.compatible, **name(found.old.manifest)},
        "new": {"path": str(found.new.path), "compatible": found.new.compatible, **name(found.new.manifest)},
        "packages": [asdict(change) for change in found.packages],
        "components": [asdict(change) for change in found.components],
        "root": delta(found.root), "verity": delta(found.hash_tree), "boot": delta(found.boot),
        "index": found.index, "download": found.download, "remarks": list(found.remarks),
    }  # fmt: skip


def comparison_lines(comparison: Comparison) -> Iterator[str]:
    """A comparison for people."""
    old, new = comparison.old.manifest, comparison.new.manifest
    yield f"{old.name} {old.version} → {new.name} {new.version}"
    yield from (f"  ! {remark}" for remark in comparison.remarks)
    for title, changes in (("Components", comparison.components), ("Packages", comparison.packages)):
        yield from ("", f"{title}: {count_changes(changes)}")
        if changes:
            yield from align_columns([change_row(change) for change in changes])
    parts = (("root", comparison.root), ("hash tree", comparison.hash_tree), ("boot images", comparison.boot))
    yield from ("", "Blocks that the old one does not have")
    rows = [
        (name, format_bytes(part.changed), f"of {format_bytes(part.size)}", f"{part.percent:.1f} %")
        for name, part in parts
    ]
    yield from align_columns(rows, right=(1, 2, 3))
    yield (
        f"  an adaptive update reads these and an index of {format_bytes(comparison.index)}: "
        f"{format_bytes(comparison.download)} at least"
    )


def count_changes(changes: Sequence[Change]) -> str:
    """How many were added, removed and changed."""
    added = sum(change.old is None for change in changes)
    removed = sum(change.new is None for change in changes)
    return f"{added} added, {removed} removed, {len(changes) - added - removed} changed" if changes else "no change"


def change_row(change: Change) -> tuple[str, str, str]:
    """One line of a list of changes."""
    if change.old is None:
        return "+", change.name, str(change.new)
    if change.new is None:
        return "-", change.name, change.old
    same = change.old == change.new
    return "~", change.name, f"{change.old}, built anew" if same else f"{change.old} → {change.new}"
