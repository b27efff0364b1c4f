"""The image to write: a plain file, or a compressed one that is unpacked while it is read."""

import bz2
import gzip
import io
import lzma
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import zstandard

from osbuild.formats import compression, foreign
from osbuild.formats.bmap import Bmap, Range, read_bmap
from osbuild.image.block_map import find_used_ranges
from osbuild.inspection import image
from osbuild.shared.errors import Error, UsageError

MIB = 2**20
MAGIC = {"zst": compression.ZSTD, "xz": compression.XZ, "gz": b"\x1f\x8b", "bz2": b"BZh"}
DAMAGED = (zstandard.ZstdError, lzma.LZMAError, zlib.error, gzip.BadGzipFile, EOFError)


class ByteStream(Protocol):
    """A source of bytes."""

    def readinto(self, view: memoryview, /) -> int | None: ...


@dataclass(frozen=True)
class ImageSource:
    """An image. `packed` is its compression; `size` is the unpacked size in bytes, None if unknown."""

    path: Path
    packed: str | None
    size: int | None

    @contextmanager
    def reading(self) -> Iterator["ImageReader"]:
        """Open it for reading from the beginning. Raises `Error`."""
        try:
            file = self.path.open("rb", buffering=0)
        except OSError as error:
            raise unreadable_image(self.path, error) from error
        with file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
            yield ImageReader(self, open_decoder(file, self.packed))


def unreadable_image(path: Path, error: OSError) -> Error:
    """Return a read error as an `Error` for the user."""
    return Error(
        f"cannot read the image: {error.strerror or error}", where=str(path), hint="check its permissions and disk"
    )


def open_decoder(file: io.FileIO, packed: str | None) -> ByteStream:
    """Return a decoder for a compression. Concatenated streams are decoded as one image."""
    match packed:
        case "zst":
            decoder = zstandard.ZstdDecompressor(max_window_size=2**31)
            return decoder.stream_reader(file, read_across_frames=True)
        case "xz":
            return lzma.LZMAFile(file)
        case "gz":
            return gzip.GzipFile(fileobj=file)
        case "bz2":
            return bz2.BZ2File(file)
        case _:
            return file


class ImageReader:
    """Reads an image forward. `offset` is the position in the image in bytes."""

    def __init__(self, source: ImageSource, stream: ByteStream) -> None:
        self.source, self.stream, self.offset = source, stream, 0
        self._skipped = memoryview(bytearray(MIB))

    def fill(self, view: memoryview) -> int:
        """Fill `view` and return the bytes read, fewer only at the image's end. Raises `Error` if it is damaged."""
        filled = 0
        try:
            while filled < len(view):
                count = self.stream.readinto(view[filled:]) or 0
                if not count:
                    break
                filled += count
        except DAMAGED as error:
            where, hint = str(self.source.path), "copy or download it again"
            raise Error(f"the compressed image is damaged: {error}", where=where, hint=hint) from error
        except OSError as error:
            raise unreadable_image(self.source.path, error) from error
        self.offset += filled
        return filled

    def skip_to(self, offset: int) -> None:
        """Skip everything before `offset`. Raises `Error` if the image ends before."""
        if isinstance(self.stream, io.FileIO):
            self.offset = self.stream.seek(offset)
        while self.offset < offset:
            if not self.fill(self._skipped[: min(MIB, offset - self.offset)]):
                raise short_image(self.source, offset)


def short_image(source: ImageSource, expected: int) -> Error:
    """Return the error for an image that ends too early."""
    return Error(f"the image ends before byte {expected}", where=str(source.path), hint="copy or download it again")


def find_image(path: Path) -> ImageSource:
    """Return the image at `path`, or in the build folder `path`. Raises `Error` if it is missing or incomplete."""
    image_path = image.find_image(path)
    if not image_path.is_file():
        hint = "copy the disk to a file first, or name the image that was written to it"
        raise Error("the image must be a file", where=str(image_path), hint=hint)
    try:
        with image_path.open("rb") as file:
            head = file.read(8)
            packed = next((name for name, magic in MAGIC.items() if head.startswith(magic)), None)
            size: int | None = image_path.stat().st_size
            if packed is not None:
                sizes = {"zst": compression.zstd_size, "xz": compression.xz_size}
                size = sizes[packed](file, str(image_path)) if packed in sizes else None
            else:
                foreign.refuse_foreign_file(file, str(image_path))
    except OSError as error:
        raise unreadable_image(image_path, error) from error
    if size == 0:
        raise Error("the image is empty", where=str(image_path), hint="build it again")
    return ImageSource(image_path, packed, size)


def find_bmap(source: ImageSource, named: Path | None) -> Path | None:
    """Return the block map of an image: `named`, or one beside the image, or None. Raises `UsageError`."""
    if named is not None:
        if not named.is_file():
            raise UsageError(
                "this block map does not exist", where=str(named), hint="omit --bmap to write the whole image"
            )
        return named
    plain = source.path.with_suffix("") if source.packed else source.path
    for path in (Path(f"{source.path}.bmap"), Path(f"{plain}.bmap"), plain.with_suffix(".bmap")):
        if path.is_file():
            return path
    return None


def choose_bmap(source: ImageSource, path: Path | None) -> Bmap | None:
    """Return the ranges of an image to write, from the block map `path` or the image's file systems.

    None if the size of the image is unknown. Raises `Error` if the map belongs to another image.
    """
    if path is not None:
        bmap = read_bmap(path)
        if source.size not in (None, bmap.size):
            raise Error(
                f"this is the block map of another image: {bmap.size} bytes, and {source.path.name} has {source.size}",
                where=str(path),
                hint="copy map and image from the same build, or pass --no-bmap",
            )
        return bmap
    if source.packed is None and source.size is not None:
        try:
            return Bmap(source.size, find_used_ranges(source.path))
        except Error:  # without a GPT it is unknown which holes matter
            return Bmap(source.size, (Range(0, source.size),))
    return None if source.size is None else Bmap(source.size, (Range(0, source.size),))
