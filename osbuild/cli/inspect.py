"""`edge-osbuild inspect`: show what is in an image or bundle, or what an update would change."""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import UUID

import click

from osbuild.cli.location import LOCATION
from osbuild.cli.table import align_columns, print_lines
from osbuild.formats import superblocks
from osbuild.host.cache import Cache
from osbuild.host.paths import display_path
from osbuild.inputs.build_manifest import Manifest
from osbuild.inspection.boot_images import BootImageInfo
from osbuild.inspection.image import InspectedPartition, InspectedSlot, Inspection, inspect_image
from osbuild.shared.errors import UsageError
from osbuild.shared.sizes import format_bytes

MOST = 10  # rows of a long list


@click.command(short_help="show the contents of an image, or what an update changes")
@click.argument("image", type=LOCATION, metavar="PATH")
@click.option("--against", type=LOCATION, metavar="OLD",
              help="Show what changes from OLD to PATH; each is a build folder or a bundle.")  # fmt: skip
@click.option("--keys", "folder", type=LOCATION, metavar="FOLDER",
              help="Keys to check the bundle's signature with. Default: as for `edge-osbuild bundle`.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def command(image: Path, against: Path | None, folder: Path | None, as_json: bool) -> None:
    """Show the partitions, slots, boot entries and components in PATH: a disk image, a build folder or a bundle.

    The exit status is 1 if a device that trusts the keys of --keys (or $EDGE_OSBUILD_KEYS) would refuse the bundle.
    """
    from osbuild.bundle import info
    from osbuild.cli import comparison
    from osbuild.inspection import update_changes  # slow imports
    from osbuild.keys import development, key_folder

    if folder and (against is not None or not info.is_bundle(image)):
        hint = "leave out --keys" if against is None else "leave out --against, or --keys"
        raise UsageError("--keys is only for checking the signature of one bundle", where=str(image), hint=hint)
    if against is not None:
        cache = Cache()
        changes = update_changes.compare_builds(
            update_changes.read_side(against.absolute(), cache), update_changes.read_side(image.absolute(), cache)
        )
        if as_json:
            click.echo(json.dumps(comparison.comparison_json(changes), indent=2))
        else:
            print_lines(comparison.comparison_lines(changes))
    elif info.is_bundle(image):
        explicit = folder is not None or "EDGE_OSBUILD_KEYS" in os.environ
        has_keys = explicit or key_folder.has_keys(development.default_folder())
        keyring = development.existing_keys(folder).keyring() if has_keys else None
        bundle = info.read_bundle(image.absolute(), Cache(), keyring)
        if as_json:
            click.echo(json.dumps(comparison.info_json(bundle), indent=2))
        else:
            print_lines(comparison.info_lines(bundle))
        if explicit and bundle.problem:
            raise click.exceptions.Exit(1)
    else:
        report = inspect_image(image)
        if as_json:
            click.echo(json.dumps(inspection_json(report), indent=2))
        else:
            print_lines(inspection_lines(report))


def inspection_json(report: Inspection) -> dict[str, Any]:
    """Return the report as JSON values. Sizes are in bytes; `kind` and `holds` are texts for people."""

    def simple(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: simple(inner) for name, inner in value.items()}
        if isinstance(value, list | tuple):
            return [simple(inner) for inner in value]
        return str(value) if isinstance(value, UUID | Path) else value

    partitions = [
        {
            **asdict(part.partition),
            "kind": part.partition.kind,
            "holds": part.holds,
            "content": asdict(part.content) if part.content else None,
        }
        for part in report.parts
    ]
    document = {
        "image": report.image,
        "size": report.size,
        "allocated": report.allocated,
        "table": {"uuid": report.table.uuid, "sector": report.table.sector},
        "partitions": partitions,
        "slots": [{**asdict(slot), "free": slot.free} for slot in report.slots],
        "entries": [asdict(entry) for entry in report.entries],
        "next_slot": report.next_slot,
        "manifest": report.manifest.to_json() if report.manifest else None,
        "problems": report.problems,
    }
    result: dict[str, Any] = simple(document)
    return result


def inspection_lines(report: Inspection) -> Iterator[str]:
    """Yield the report for people, line by line."""
    manifest = report.manifest or Manifest()
    name = " ".join(word for word in (manifest.name, manifest.version, manifest.board_name) if word)
    yield f"{display_path(report.image)}: {format_bytes(report.size)}, {format_bytes(report.allocated)} on disk" + (
        name and f" · {name}"
    )
    yield from ("", "Partitions", *align_columns([_partition(part) for part in report.parts], right=(0, 3)))
    if report.slots:
        yield from ("", "Slots", *align_columns([_slot(slot) for slot in report.slots]))
    if report.entries:
        yield from ("", "Boot entries" + (f", slot {report.next_slot} is booted next" if report.next_slot else ""))
        for entry in report.entries:
            yield from _entry(entry)
    yield from _manifest(manifest)
    if report.problems:
        yield from ("", "Problems", *(f"  ✗ {problem}" for problem in report.problems))


def _partition(part: InspectedPartition) -> tuple[str, ...]:
    partition, content = part.partition, part.content
    details = [part.holds]
    match content:
        case superblocks.Erofs():
            details += [
                format_bytes(content.size),
                "+".join(content.compression) or "not compressed",
                f"{content.inodes} inodes",
            ]
            details += ["checksum wrong"] if content.intact is False else []
        case superblocks.Verity():
            details += [
                format_bytes(content.size),
                content.algorithm,
                f"salt {content.salt[:8]}…" if content.salt else "no salt",
            ]
            details += [f"blocks {content.data_block_size}/{content.hash_block_size}"]
        case superblocks.Ext4():
            details += [format_bytes(content.size), f"label {content.label}" if content.label else "no label"]
    return str(partition.number), partition.name, partition.kind, format_bytes(partition.size), ", ".join(details)


def _slot(slot: InspectedSlot) -> tuple[str, ...]:
    if not slot.filled:
        return slot.name, "empty", format_bytes(slot.size), "", ""
    used = f"{format_bytes(slot.used)} of {format_bytes(slot.size)}, {slot.free} % free"
    return slot.name, "filled", used, f"root hash {(slot.root_hash or 'unknown')[:16]}", ", ".join(slot.entries)


def _entry(entry: BootImageInfo) -> Iterator[str]:
    system = entry.os_release.get("PRETTY_NAME", "")
    version = entry.os_release.get("IMAGE_VERSION", "")
    tries = "" if entry.tries_left is None else f"{entry.tries_left} tries left"
    parts = (
        format_bytes(entry.size),
        entry.machine or "",
        entry.kernel or "",
        system,
        version,
        tries,
        entry.problem or "",
    )
    yield f"  {entry.path}: " + ", ".join(part for part in parts if part)
    sizes = [
        f"{name[1:]} {format_bytes(entry.sections[name])}" for name in (".linux", ".initrd") if name in entry.sections
    ]
    if sizes:
        yield "    " + ", ".join(sizes)
    if entry.command_line:
        yield "    " + entry.command_line


def _rows(parts: Iterable[tuple[str, str, int | None]]) -> list[tuple[str, str, str]]:
    """Return name, version and size of each of `parts`, the largest first."""
    ordered = sorted(parts, key=lambda part: part[2] or 0, reverse=True)
    return [(name, version, format_bytes(size)) for name, version, size in ordered]


def _manifest(manifest: Manifest) -> Iterator[str]:
    packages = _rows((package.name, package.version, package.installed) for package in manifest.packages)
    sections = (
        ("Components", _rows((part.name, part.version, part.size) for part in manifest.components), ""),
        ("Packages", packages, "by installed size"),
        ("Largest parts", _rows((part.name or part.path, "", part.size) for part in manifest.largest), ""),
    )
    for title, rows, order in sections:
        if rows:
            count = f", {MOST} of {len(rows)}" if len(rows) > MOST else ""
            yield from ("", f"{title}{count}" + (f" {order}" if count else ""), *align_columns(rows[:MOST], right=(2,)))
    if manifest.files:
        rows = [
            (name, format_bytes(file.size), f"sha256 {file.sha256 or 'unknown'}")
            for name, file in manifest.files.items()
        ]
        yield from ("", "Files", *align_columns(rows, right=(1,)))
