"""Verifies a target: parts of the image by checksum, everything else byte by byte."""

import hashlib
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

from osbuild.flash.image_feed import ImageFeed
from osbuild.flash.open_target import OpenTarget, page_buffer
from osbuild.flash.plan import TargetOrder, bmap_mismatch
from osbuild.formats.bmap import Range
from osbuild.image.block_map import CHUNK
from osbuild.shared.errors import Error

HINT = "the SD card does not store what is written to it: it is counterfeit or worn out. Use another card"


@dataclass(frozen=True)
class WrittenTarget:
    """A target after writing, with its order and the image that was written."""

    card: OpenTarget
    order: TargetOrder
    feed: ImageFeed
    changed_offsets: tuple[int, ...]
    """offsets at which the target differs from the image, sorted"""


def verify_target(card: OpenTarget, order: TargetOrder, feed: ImageFeed, tick: Callable[[int], None]) -> int:
    """Verify everything except the head, after `OpenTarget.flush`, and return the verified bytes.

    `tick` is called with the bytes of each step. Raises `Error` with the first wrong offset.
    """
    checked = 0
    written = WrittenTarget(card, order, feed, tuple(sorted(order.changes)))
    algorithm = checksum_algorithm(feed)
    head = feed.plan.head
    view = page_buffer(CHUNK)
    for part in feed.done:
        digest = hashlib.new(algorithm)
        position = part.offset
        while position < part.end:
            size = min(CHUNK, part.end - position, len(head) - position if position < len(head) else CHUNK)
            if position < len(head):
                digest.update(head[position : position + size])
            else:
                read_as_image(written, position, view[: -(-size // card.sector) * card.sector])
                digest.update(view[:size])
            position += size
            checked += size
            tick(size)
        if digest.hexdigest() != part.digest:
            raise first_difference(written, part)
    for offset, data in order.runs():
        if card.read_small(offset, len(data)) != data:
            raise Error(f"byte {offset} differs from what was written", where=str(order.target.path), hint=HINT)
    return checked


def checksum_algorithm(feed: ImageFeed) -> str:
    """Return the hash algorithm of the checksums of parts."""
    return feed.plan.bmap.algorithm if feed.plan.bmap else "sha256"


def read_as_image(written: WrittenTarget, offset: int, view: memoryview) -> None:
    """Fill `view` from the target, with the image's original bytes at the offsets that were changed for this target."""
    written.card.read(offset, view)
    changed_offsets, originals = written.changed_offsets, written.feed.originals
    index = bisect_left(changed_offsets, offset)
    while index < len(changed_offsets) and changed_offsets[index] < offset + len(view):
        changed = changed_offsets[index]
        index += 1
        if changed in originals:
            data = originals[changed]
            view[changed - offset : changed - offset + len(data)] = data


def first_difference(written: WrittenTarget, part: Range) -> Error:
    """Return the error with the first wrong offset of a part, by reading image and target again."""
    card, feed = written.card, written.feed
    where = str(written.order.target.path)
    head = len(feed.plan.head)
    view, expected = page_buffer(CHUNK), page_buffer(CHUNK)
    digest = hashlib.new(checksum_algorithm(feed), feed.plan.head[part.offset : part.end])
    with feed.plan.source.reading() as reader:
        reader.skip_to(max(part.offset, head))
        while reader.offset < part.end:
            offset, size = reader.offset, min(CHUNK, part.end - reader.offset)
            reader.fill(expected[:size])
            digest.update(expected[:size])
            read_as_image(written, offset, view[: -(-size // card.sector) * card.sector])
            if view[:size].tobytes() != expected[:size].tobytes():
                for start in range(0, size, card.sector):
                    sector = bytes(view[start : min(start + card.sector, size)])
                    if sector != expected[start : min(start + card.sector, size)]:
                        contents = "other data" if any(sector) else "zeros"
                        message = f"data written at byte {offset + start} was lost: the disk returns {contents}"
                        return Error(message, where=where, hint=HINT)
    if digest.hexdigest() != part.digest:
        return bmap_mismatch(feed.plan, part)
    message = f"bytes {part.offset} to {part.end} were wrong when read first, and right when read again"
    return Error(message, where=where, hint="the card or its reader is failing: try other ones")
