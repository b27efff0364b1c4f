"""A seed for one card: what differs on its EFI system partition from that of the image.

The seed goes into a copy of that partition, so what is written to a card is known before the card is touched, and is
written, and read back, like all the rest.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from osbuild.flash.source import ImageSource, short_image
from osbuild.formats import gpt
from osbuild.formats.bmap import Range
from osbuild.formats.fat import Fat
from osbuild.host.run import run_command
from osbuild.image.block_map import file_extents
from osbuild.seed.esp_seed import Wrap, write_seed
from osbuild.shared.errors import Error

SECTOR = 512
BLOCK = 2**16  # bytes that are copied, or left a hole, at once
ZEROS = bytes(BLOCK)


@dataclass(frozen=True)
class EspCopy:
    """A copy of an image's EFI system partition, which lies `offset` bytes into the image."""

    copy: Path
    offset: int

    def changes(self, files: Mapping[str, bytes], *, wrap: Wrap) -> dict[int, bytes]:
        """What to write on a card, by offset in bytes, sector by sector, so that /seed holds `files`."""
        seeded = self.copy.with_name("seeded")
        run_command(["cp", "--sparse=always", self.copy, seeded])
        try:
            write_seed(files, seeded, 0, wrap=wrap)
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


def find_esp(table: gpt.Table | None, source: ImageSource) -> gpt.Partition:
    """The one EFI system partition of an image. Raises `Error`."""
    hint = "give the seed on a medium of its own (`edge-osbuild seed`), and leave out --seed and --node"
    return gpt.find_esp(table, str(source.path), hint, " to put a seed on")


def extract_esp(source: ImageSource, entry: gpt.Partition, copy: Path) -> EspCopy:
    """Copy the partition `entry` of the image to the file `copy`, which becomes sparse. Raises `Error`."""
    try:
        return _extract(source, entry, copy)
    except OSError as error:
        hint = "make room there: it has what the boot files of the image take"
        raise Error(f"cannot copy the boot partition: {error.strerror}", where=str(copy.parent), hint=hint) from error


def _extract(source: ImageSource, entry: gpt.Partition, copy: Path) -> EspCopy:
    view = memoryview(bytearray(BLOCK))
    with source.reading() as reader, copy.open("wb") as file:
        parts = [Range(entry.offset, entry.size)]
        if source.packed is None:
            with source.path.open("rb") as plain:
                parts = [
                    Range(start, min(extent.end, entry.offset + entry.size) - start)
                    for extent in file_extents(plain, entry.offset + entry.size)
                    if (start := max(extent.offset, entry.offset)) < extent.end
                ]
        for part in parts:
            reader.skip_to(part.offset)
            while reader.place < part.end:
                offset, wanted = reader.place, min(BLOCK, part.end - reader.place)
                if reader.fill(view[:wanted]) < wanted:
                    raise short_image(source, part.end)
                if view[:wanted].tobytes() != ZEROS[:wanted]:
                    file.seek(offset - entry.offset)
                    file.write(view[:wanted])
        file.truncate(entry.size)
    return EspCopy(copy, entry.offset)
