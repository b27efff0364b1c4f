"""How `edge-osbuild inspect` shows a bundle, and what an update would change."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from osbuild.bundle.info import BundleInfo
from osbuild.cli.table import align_columns
from osbuild.host.paths import display_path
from osbuild.inspection.update_changes import Change, ComparedBuild, Comparison, Delta
from osbuild.shared.sizes import format_bytes


def info_json(info: BundleInfo) -> dict[str, Any]:
    """Return a bundle as JSON values."""
    return {**asdict(info), "path": str(info.path)}


def info_lines(info: BundleInfo) -> Iterator[str]:
    """Yield the description of a bundle for people, line by line."""
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


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as JSON values; sizes are in bytes."""

    def delta(group: Delta) -> dict[str, Any]:
        return {**asdict(group), "percent": round(group.percent, 2)}

    def side(build: ComparedBuild) -> dict[str, str]:
        keys = ("name", "version", "architecture", "roothash")
        identity = {key: getattr(build.manifest, key) for key in keys}
        return {"path": str(build.path), "compatible": build.compatible, **identity}

    return {
        "old": side(comparison.old), "new": side(comparison.new),
        "packages": [asdict(change) for change in comparison.packages],
        "components": [asdict(change) for change in comparison.components],
        "root": delta(comparison.root), "verity": delta(comparison.hash_tree), "boot": delta(comparison.boot),
        "index": comparison.index, "download": comparison.download, "remarks": list(comparison.remarks),
    }  # fmt: skip


def comparison_lines(comparison: Comparison) -> Iterator[str]:
    """Yield the description of a comparison for people, line by line."""
    old, new = comparison.old.manifest, comparison.new.manifest
    yield f"{old.name} {old.version} → {new.name} {new.version}"
    yield from (f"  ! {remark}" for remark in comparison.remarks)
    for title, changes in (("Components", comparison.components), ("Packages", comparison.packages)):
        yield from ("", f"{title}: {count_changes(changes)}")
        if changes:
            yield from align_columns([change_row(change) for change in changes])
    parts = (("root", comparison.root), ("hash tree", comparison.hash_tree), ("boot images", comparison.boot))
    yield from ("", "Blocks that the old version does not contain")
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
    """Return the numbers of added, removed and changed items, as text."""
    added = sum(change.old is None for change in changes)
    removed = sum(change.new is None for change in changes)
    return f"{added} added, {removed} removed, {len(changes) - added - removed} changed" if changes else "no change"


def change_row(change: Change) -> tuple[str, str, str]:
    """Return the columns of one change."""
    if change.old is None:
        return "+", change.name, str(change.new)
    if change.new is None:
        return "-", change.name, change.old
    same = change.old == change.new
    return "~", change.name, f"{change.old}, built again" if same else f"{change.old} → {change.new}"
