"""The image to write, and which of its ranges are written."""

from pathlib import Path

from osbuild.formats.bmap import Bmap, Range, read_bmap
from osbuild.formats.image_source import ImageSource, identify_image
from osbuild.image.block_map import find_used_ranges
from osbuild.inspection import image
from osbuild.shared.errors import Error, UsageError


def find_image(path: Path) -> ImageSource:
    """Return the image at `path`, or in the build folder `path`. Raises `Error` if it is missing or incomplete."""
    image_path = image.find_image(path)
    if not image_path.is_file():
        hint = "copy the disk to a file first, or name the image that was written to it"
        raise Error("the image must be a file", where=str(image_path), hint=hint)
    return identify_image(image_path)


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
