"""Reads a card back: every part of the image by its checksum, everything else byte by byte."""

import hashlib
from bisect import bisect_left
from collections.abc import Callable, Sequence

from osbuild.flash.image_feed import ImageFeed
from osbuild.flash.open_target import OpenTarget, page_buffer
from osbuild.flash.plan import TargetOrder, bmap_mismatch
from osbuild.formats.bmap import Range
from osbuild.image.block_map import CHUNK
from osbuild.shared.errors import Error

HINT = "it does not keep what is written to it: a counterfeit or worn-out card. Use another"


def verify_target(card: OpenTarget, order: TargetOrder, feed: ImageFeed, tick: Callable[[int], None]) -> int:
    """Bytes that were read and found right, of everything but the head. `tick` is told of each step.

    Raises `Error` with the first place that is wrong. Nothing of it comes from memory: `SdCard.flush` came before.
    """
    checked = 0
    places = sorted(order.changes)
    algorithm = checksum_algorithm(feed)
    head = feed.plan.head
    view = page_buffer(CHUNK)
    for part in feed.done:
        digest = hashlib.new(algorithm)
        place = part.offset
        while place < part.end:
            size = min(CHUNK, part.end - place, len(head) - place if place < len(head) else CHUNK)
            if place < len(head):
                digest.update(head[place : place + size])
            else:
                read_as_image(card, order, feed, places, place, view[: -(-size // card.sector) * card.sector])
                digest.update(view[:size])
            place += size
            checked += size
            tick(size)
        if digest.hexdigest() != part.digest:
            raise first_difference(card, order, feed, places, part)
    for offset, data in order.runs():
        if card.read_small(offset, len(data)) != data:
            raise Error(
                f"what was written at byte {offset} is not what is there", where=str(order.target.path), hint=HINT
            )
    return checked


def checksum_algorithm(feed: ImageFeed) -> str:
    """What the checksums of the parts are made with."""
    return feed.plan.bmap.algorithm if feed.plan.bmap else "sha256"


def read_as_image(
    card: OpenTarget, order: TargetOrder, feed: ImageFeed, places: Sequence[int], offset: int, view: memoryview
) -> None:  # fmt: skip
    """Fill `view` with what the image would have there: what was changed for this card is put back."""
    card.read(offset, view)
    index = bisect_left(places, offset)
    while index < len(places) and places[index] < offset + len(view):
        place = places[index]
        index += 1
        if place in feed.originals:
            data = feed.originals[place]
            view[place - offset : place - offset + len(data)] = data


def first_difference(
    card: OpenTarget, order: TargetOrder, feed: ImageFeed, places: Sequence[int], part: Range
) -> Error:
    """Says where a part that is wrong begins to be so, by reading image and card once more."""
    where = str(order.target.path)
    head = len(feed.plan.head)
    view, right = page_buffer(CHUNK), page_buffer(CHUNK)
    digest = hashlib.new(checksum_algorithm(feed), feed.plan.head[part.offset : part.end])
    with feed.plan.source.reading() as reader:
        reader.skip_to(max(part.offset, head))
        while reader.place < part.end:
            offset, size = reader.place, min(CHUNK, part.end - reader.place)
            reader.fill(right[:size])
            digest.update(right[:size])
            read_as_image(card, order, feed, places, offset, view[: -(-size // card.sector) * card.sector])
            if view[:size].tobytes() != right[:size].tobytes():
                for start in range(0, size, card.sector):
                    found = bytes(view[start : min(start + card.sector, size)])
                    if found != right[start : min(start + card.sector, size)]:
                        holds = "something else is" if any(found) else "zeros are"
                        message = f"what was written at byte {offset + start} was lost: {holds} there"
                        return Error(message, where=where, hint=HINT)
    if digest.hexdigest() != part.digest:
        return bmap_mismatch(feed.plan, part)
    message = f"bytes {part.offset} to {part.end} were wrong when read back, and right when read once more"
    return Error(message, where=where, hint="the card or its reader is failing: try another of each")
