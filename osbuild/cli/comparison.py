"""How `edge-osbuild inspect` shows a bundle, and what an update would change."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from osbuild.bundle.info import Info
from osbuild.cli.table import amount, columns
from osbuild.compare import Change, Comparison, Delta
from osbuild.paths import display


def info_json(found: Info) -> dict[str, Any]:
    """A bundle as JSON can write it."""
    return {**asdict(found), "path": str(found.path)}


def info_lines(found: Info) -> Iterator[str]:
    """A bundle for people."""
    yield f"{display(found.path)}: {amount(found.size)}, {found.version} for {found.compatible}"
    if found.signer:
        yield f"  signed by {found.signer}"
    if found.problem:
        yield f"  {'PROBLEM' if found.signer else 'signature'}: {found.problem}"
    yield from ("", "Images", *columns([(name, amount(size)) for name, size in found.images.items()], right=(1,)))
    if found.meta:
        yield from ("", "Build", *columns([(name, value) for name, value in found.meta.items()]))


def to_json(found: Comparison) -> dict[str, Any]:
    """A comparison as JSON can write it; sizes are in bytes."""

    def delta(part: Delta) -> dict[str, Any]:
        return {**asdict(part), "percent": round(part.percent, 2)}

    def name(facts: Any) -> dict[str, str]:
        return {key: str(facts.get(key, "")) for key in ("name", "version", "architecture", "roothash")}

    return {
        "old": {"path": str(found.old.path), "compatible": found.old.compatible, **name(found.old.facts)},
        "new": {"path": str(found.new.path), "compatible": found.new.compatible, **name(found.new.facts)},
        "packages": [asdict(change) for change in found.packages],
        "components": [asdict(change) for change in found.components],
        "root": delta(found.root), "verity": delta(found.tree), "boot": delta(found.boot),
        "index": found.index, "download": found.download, "remarks": list(found.remarks),
    }  # fmt: skip


def lines(found: Comparison) -> Iterator[str]:
    """A comparison for people."""
    old, new = found.old.facts, found.new.facts
    yield f"{old['name']} {old['version']} → {new['name']} {new['version']}"
    yield from (f"  ! {remark}" for remark in found.remarks)
    for title, changes in (("Components", found.components), ("Packages", found.packages)):
        yield from ("", f"{title}: {counted(changes)}")
        if changes:
            yield from columns([row(change) for change in changes])
    parts = (("root", found.root), ("hash tree", found.tree), ("boot file", found.boot))
    yield from ("", "Blocks that the old one does not have")
    rows = [(name, amount(part.changed), f"of {amount(part.size)}", f"{part.percent:.1f} %") for name, part in parts]
    yield from columns(rows, right=(1, 2, 3))
    yield f"  an adaptive update reads these and an index of {amount(found.index)}: {amount(found.download)} at least"


def counted(changes: Sequence[Change]) -> str:
    """How many were added, removed and changed."""
    added = sum(change.old is None for change in changes)
    removed = sum(change.new is None for change in changes)
    return f"{added} added, {removed} removed, {len(changes) - added - removed} changed" if changes else "no change"


def row(change: Change) -> tuple[str, str, str]:
    """One line of a list of changes."""
    if change.old is None:
        return "+", change.name, str(change.new)
    if change.new is None:
        return "-", change.name, change.old
    same = change.old == change.new
    return "~", change.name, f"{change.old}, built anew" if same else f"{change.old} → {change.new}"
