"""diskimage-builder's elements: which of them a root is made with."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from osbuild.host.cache import content_key, file_digest, tree_digest
from osbuild.host.paths import ELEMENTS
from osbuild.host.walk import walk_folder


def search_path(elements: Iterable[Path], own: Path = ELEMENTS) -> list[Path]:
    """Folders in which diskimage-builder looks for an element by name, in this order; its own come last."""
    return list(dict.fromkeys([own, *(element.parent for element in elements)]))


def with_dependencies(elements: Sequence[Path]) -> list[Path]:
    """`elements` and all that their `element-deps` name; those that diskimage-builder brings are left out."""
    folders, paths, known = search_path(elements), list(elements), list[Path]()
    while paths:
        element = paths.pop(0)
        if element in known:
            continue
        known.append(element)
        needed = element / "element-deps"
        for name in needed.read_text().split() if needed.is_file() else ():
            paths += [folder / name for folder in folders if (folder / name).is_dir()][:1]
    return known


def elements_key(elements: Sequence[Path]) -> str:
    """Content key of `elements`, of those that they depend on, and of files that links in them lead to."""
    every = with_dependencies(elements)
    links = (element / found.path for element in every for found in walk_folder(element) if found.is_link)
    linked = [file_digest(link) for link in links if link.is_file()]
    return content_key([element.name for element in every], tree_digest(*every), linked)
