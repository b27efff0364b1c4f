"""A disk image as a file: plain, or compressed and unpacked while it is read."""

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
from osbuild.shared.errors import Error

MIB = 2**20
ZEROS = bytes(MIB)
MAGIC = {"zst": compression.ZSTD, "xz": compression.XZ, "gz": compression.GZIP, "bz2": b"BZh"}
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

    def copy_to(self, file: io.BufferedWriter) -> None:
        """Write the rest of the image to an empty file; zeros become holes. Raises `OSError` and `Error`."""
        view, start = memoryview(bytearray(MIB)), self.offset
        while count := self.fill(view):
            if not ZEROS.startswith(view[:count]):
                file.seek(self.offset - count - start)
                file.write(view[:count])
        file.truncate(self.offset - start)

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


def identify_image(path: Path) -> ImageSource:
    """Return the image in the file `path`. Raises `Error` if it is empty, incomplete or not a disk image."""
    try:
        with path.open("rb") as file:
            head = file.read(8)
            packed = next((name for name, magic in MAGIC.items() if head.startswith(magic)), None)
            size: int | None = path.stat().st_size
            if packed is not None:
                sizes = {"zst": compression.zstd_size, "xz": compression.xz_size}
                size = sizes[packed](file, str(path)) if packed in sizes else None
            else:
                foreign.refuse_foreign_file(file, str(path))
    except OSError as error:
        raise unreadable_image(path, error) from error
    if size == 0:
        raise Error("the image is empty", where=str(path), hint="build it again")
    return ImageSource(path, packed, size)
