"""What is below a folder, always in the same order."""

import os
from collections.abc import Iterator
from pathlib import Path


def walk(folder: Path | str) -> Iterator[os.DirEntry[str]]:
    """Every file, link and folder below `folder`, in an order that depends on names only; links are not followed.

    Raises `OSError` if one can't be read.
    """
    with os.scandir(folder) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    for entry in ordered:
        yield entry
        if entry.is_dir(follow_symlinks=False):
            yield from walk(entry.path)
