"""Computes how the ESP of a target with a seed differs from the image's ESP.

The seed is written to a copy of the ESP. So all changes are known before the target is opened, and are written and
verified like the rest of the image.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from osbuild.formats import gpt
from osbuild.formats.bmap import Range
from osbuild.formats.fat import Fat
from osbuild.formats.image_source import ImageSource, short_image
from osbuild.host.run import run_command
from osbuild.image.block_map import file_extents
from osbuild.seed.esp_seed import Wrap, write_seed
from osbuild.shared.errors import Error

SECTOR = 512
BLOCK = 2**16  # bytes that are copied, or left as a hole, at once
ZEROS = bytes(BLOCK)


@dataclass(frozen=True)
class EspCopy:
    """A copy of an image's ESP, which is at `offset` bytes in the image."""

    copy: Path
    offset: int

    def changes(self, files: Mapping[str, bytes], *, wrap: Wrap) -> dict[int, bytes]:
        """Return the sectors to write, by offset in the image, so that /seed contains `files`. Raises `Error`."""
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
                for position in range(start, start + size, after.cluster_size):
                    step = min(after.cluster_size, start + size - position)
                    old.seek(position)
                    new.seek(position)
                    old_data, data = old.read(step), new.read(step)
                    # A cluster that was free may not be in the image's block map: all of it is written, even zeros.
                    is_new = not any(offset <= position < offset + length for offset, length in mapped)
                    for inner in range(0, step if is_new or old_data != data else 0, SECTOR):
                        sector = data[inner : inner + SECTOR]
                        if is_new or old_data[inner : inner + SECTOR] != sector:
                            yield self.offset + position + inner, sector


def find_esp(table: gpt.Table | None, source: ImageSource) -> gpt.Partition:
    """Return the ESP of an image. Raises `Error` if there is not exactly one."""
    hint = "omit --seed and --node, and put the seed on a separate medium (`edge-osbuild seed`)"
    return gpt.find_esp(table, str(source.path), hint, " to put a seed on")


def extract_esp(source: ImageSource, entry: gpt.Partition, copy: Path) -> EspCopy:
    """Copy the partition `entry` of the image to the sparse file `copy`. Raises `Error`."""
    try:
        return _extract(source, entry, copy)
    except OSError as error:
        hint = "free some space there: the copy needs as much as the files on the image's ESP"
        raise Error(f"cannot copy the ESP: {error.strerror}", where=str(copy.parent), hint=hint) from error


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
            while reader.offset < part.end:
                offset, size = reader.offset, min(BLOCK, part.end - reader.offset)
                if reader.fill(view[:size]) < size:
                    raise short_image(source, part.end)
                if view[:size].tobytes() != ZEROS[:size]:
                    file.seek(offset - entry.offset)
                    file.write(view[:size])
        file.truncate(entry.size)
    return EspCopy(copy, entry.offset)
