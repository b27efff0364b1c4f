"""A seed for one card: what differs on its EFI system partition from that of the image.

The seed goes into a copy of that partition, so what is written to a card is known before the card is touched, and is
written, and read back, like all the rest.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from osbuild import gpt
from osbuild.errors import Error
from osbuild.fat import Fat
from osbuild.flash.bmap import Range
from osbuild.flash.mapping import extents
from osbuild.flash.source import Source, short
from osbuild.run import run
from osbuild.seed.esp import Wrap, put

SECTOR = 512
BLOCK = 2**16  # bytes that are copied, or left a hole, at once
ZEROS = bytes(BLOCK)


@dataclass(frozen=True)
class Esp:
    """A copy of an image's EFI system partition, which lies `offset` bytes into the image."""

    copy: Path
    offset: int

    def changes(self, files: Mapping[str, bytes], *, wrap: Wrap) -> dict[int, bytes]:
        """What to write on a card, by offset in bytes, sector by sector, so that /seed holds `files`."""
        seeded = self.copy.with_name("seeded")
        run(["cp", "--sparse=always", self.copy, seeded])
        try:
            put(files, seeded, 0, wrap=wrap)
            return dict(self._changes(seeded))
        finally:
            seeded.unlink()

    def _changes(self, seeded: Path) -> Iterator[tuple[int, bytes]]:
        with self.copy.open("rb") as old, seeded.open("rb") as new:
            before, after = Fat(old, 0, "the image"), Fat(new, 0, "the image")
            mapped = list(before.used())
            for start, size in after.used():
                for place in range(start, start + size, after.cluster_size):
                    step = min(after.cluster_size, start + size - place)
                    old.seek(place)
                    new.seek(place)
                    was, data = old.read(step), new.read(step)
                    # A cluster that was free may not be part of the image's map: all of it is written, zeros as well.
                    taken = not any(offset <= place < offset + length for offset, length in mapped)
                    for inner in range(0, step if taken or was != data else 0, SECTOR):
                        sector = data[inner : inner + SECTOR]
                        if taken or was[inner : inner + SECTOR] != sector:
                            yield self.offset + place + inner, sector


def partition(table: gpt.Table | None, source: Source) -> gpt.Partition:
    """The one EFI system partition of an image. Raises `Error`."""
    found = [entry for entry in table.partitions if entry.type == gpt.ESP] if table else []
    if len(found) != 1:
        raise Error(
            f"{len(found)} EFI system partitions, expected one to put a seed on",
            where=str(source.path),
            hint="give the seed on a medium of its own (`edge-osbuild seed`), and leave out --seed and --node",
        )
    return found[0]


def extract(source: Source, entry: gpt.Partition, copy: Path) -> Esp:
    """Copy the partition `entry` of the image to the file `copy`, which becomes sparse. Raises `Error`."""
    try:
        return _extract(source, entry, copy)
    except OSError as error:
        hint = "make room there: it has what the boot files of the image take"
        raise Error(f"cannot copy the boot partition: {error.strerror}", where=str(copy.parent), hint=hint) from error


def _extract(source: Source, entry: gpt.Partition, copy: Path) -> Esp:
    view = memoryview(bytearray(BLOCK))
    with source.reading() as reader, copy.open("wb") as file:
        parts = [Range(entry.offset, entry.size)]
        if source.packed is None:
            with source.path.open("rb") as plain:
                parts = [
                    Range(start, min(each.end, entry.offset + entry.size) - start)
                    for each in extents(plain, entry.offset + entry.size)
                    if (start := max(each.offset, entry.offset)) < each.end
                ]
        for part in parts:
            reader.go(part.offset)
            while reader.place < part.end:
                place, wanted = reader.place, min(BLOCK, part.end - reader.place)
                if reader.fill(view[:wanted]) < wanted:
                    raise short(source, part.end)
                if view[:wanted].tobytes() != ZEROS[:wanted]:
                    file.seek(place - entry.offset)
                    file.write(view[:wanted])
        file.truncate(entry.size)
    return Esp(copy, entry.offset)
