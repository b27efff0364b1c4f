"""The image to be written: a plain file, or a compressed one that is unpacked as it is read."""

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
BEGINNINGS = {"zst": compression.ZSTD, "xz": compression.XZ, "gz": b"\x1f\x8b", "bz2": b"BZh"}
DAMAGED = (zstandard.ZstdError, lzma.LZMAError, zlib.error, gzip.BadGzipFile, EOFError)


class ByteStream(Protocol):
    """What gives bytes one after the other."""

    def readinto(self, view: memoryview, /) -> int | None: ...


@dataclass(frozen=True)
class ImageSource:
    """An image: `packed` names the compression, `size` is in bytes and None where only unpacking tells."""

    path: Path
    packed: str | None
    size: int | None

    @contextmanager
    def reading(self) -> Iterator["ImageReader"]:
        """Read it from its beginning. Raises `Error`."""
        try:
            file = self.path.open("rb", buffering=0)
        except OSError as error:
            raise unreadable_image(self.path, error) from error
        with file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
            yield ImageReader(self, open_decoder(file, self.packed))


def unreadable_image(path: Path, error: OSError) -> Error:
    """What the kernel says of an image that is there."""
    return Error(f"cannot read the image: {error.strerror or error}", where=str(path), hint="check its mode and disk")


def open_decoder(file: io.FileIO, packed: str | None) -> ByteStream:
    """The decoder for a kind of compression; several streams one after the other are one image."""
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
    """Reads forward only; `place` is the offset in the image, in bytes."""

    def __init__(self, source: ImageSource, stream: ByteStream) -> None:
        self.source, self.stream, self.place = source, stream, 0
        self._dropped = memoryview(bytearray(MIB))

    def fill(self, view: memoryview) -> int:
        """Read as many bytes as `view` has, fewer only at the image's end. Raises `Error` where it is damaged."""
        done = 0
        try:
            while done < len(view):
                count = self.stream.readinto(view[done:]) or 0
                if not count:
                    break
                done += count
        except DAMAGED as error:
            where, hint = str(self.source.path), "copy or download it again"
            raise Error(f"the compressed image is damaged: {error}", where=where, hint=hint) from error
        except OSError as error:
            raise unreadable_image(self.source.path, error) from error
        self.place += done
        return done

    def skip_to(self, offset: int) -> None:
        """Pass over everything before `offset`."""
        if isinstance(self.stream, io.FileIO):
            self.place = self.stream.seek(offset)
        while self.place < offset:
            if not self.fill(self._dropped[: min(MIB, offset - self.place)]):
                raise short_image(self.source, offset)


def short_image(source: ImageSource, expected: int) -> Error:
    """The image ends before it should."""
    return Error(f"the image ends before byte {expected}", where=str(source.path), hint="copy or download it again")


def find_image(path: Path) -> ImageSource:
    """The image at `path`, or in that folder of a build. Raises `Error` if there is none or it is not whole."""
    found = image.find_image(path)
    if not found.is_file():
        raise Error("an image is a file", where=str(found), hint="copy the disk to a file first, or give its image")
    try:
        with found.open("rb") as file:
            head = file.read(8)
            packed = next((name for name, magic in BEGINNINGS.items() if head.startswith(magic)), None)
            size: int | None = found.stat().st_size
            if packed is not None:
                sizes = {"zst": compression.zstd_size, "xz": compression.xz_size}
                size = sizes[packed](file, str(found)) if packed in sizes else None
            else:
                foreign.refuse_foreign_file(file, str(found))
    except OSError as error:
        raise unreadable_image(found, error) from error
    if size == 0:
        raise Error("the image is empty", where=str(found), hint="build it again")
    return ImageSource(found, packed, size)


def find_bmap(source: ImageSource, named: Path | None) -> Path | None:
    """The block map of an image: the one that is `named`, or one beside it, None if there is none."""
    if named is not None:
        if not named.is_file():
            raise UsageError(
                "there is no such block map", where=str(named), hint="leave out --bmap to write everything"
            )
        return named
    plain = source.path.with_suffix("") if source.packed else source.path
    for path in (Path(f"{source.path}.bmap"), Path(f"{plain}.bmap"), plain.with_suffix(".bmap")):
        if path.is_file():
            return path
    return None


def choose_bmap(source: ImageSource, path: Path | None) -> Bmap | None:
    """What of an image has to be written; None if all of it has.

    By the block map at `path`; without one, a plain file with a GPT is looked into. Raises `Error` where the map is
    that of another image.
    """
    if path is not None:
        bmap = read_bmap(path)
        if source.size not in (None, bmap.size):
            raise Error(
                f"this is the block map of another image: {bmap.size} bytes, and {source.path.name} has {source.size}",
                where=str(path),
                hint="get the map and the image from the same build, or give --no-bmap",
            )
        return bmap
    if source.packed is None and source.size is not None:
        try:
            return Bmap(source.size, find_used_ranges(source.path))
        except Error:  # no GPT: nothing says which holes matter
            return Bmap(source.size, (Range(0, source.size),))
    return None if source.size is None else Bmap(source.size, (Range(0, source.size),))
