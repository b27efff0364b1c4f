"""Finds the diskimage-builder elements with which a root is made."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from osbuild.host.cache import PLAIN, content_key, file_digest, tree_digest
from osbuild.host.paths import ELEMENTS
from osbuild.host.walk import walk_folder
from osbuild.shared.errors import Error


def search_path(elements: Iterable[Path], shipped: Path = ELEMENTS) -> list[Path]:
    """Return the folders in which diskimage-builder looks for an element by name, in order, before its own.

    Raises `Error` for a folder with a path that its shell scripts would split or misread.
    """
    folders = list(dict.fromkeys([shipped, *(element.parent for element in elements)]))
    for folder in folders:
        if not PLAIN.fullmatch(str(folder.absolute())):
            hint = "move it to a path of letters, digits and /.,+@=~_-"
            raise Error(
                "diskimage-builder cannot find elements in a folder of such a name", where=str(folder), hint=hint
            )
    return folders


def with_dependencies(elements: Sequence[Path]) -> list[Path]:
    """Return `elements` and the elements in their `element-deps`, except diskimage-builder's own."""
    folders, paths, result = search_path(elements), list(elements), list[Path]()
    while paths:
        element = paths.pop(0)
        if element in result:
            continue
        result.append(element)
        dependencies = element / "element-deps"
        for name in dependencies.read_text(errors="replace").split() if dependencies.is_file() else ():
            paths += [folder / name for folder in folders if (folder / name).is_dir()][:1]
    return result


def elements_key(elements: Sequence[Path]) -> str:
    """Return the content key of `elements`, their dependencies, and the files that links in them point to."""
    elements = with_dependencies(elements)
    links = (element / item.path for element in elements for item in walk_folder(element) if item.is_link)
    linked = [file_digest(link) for link in links if link.is_file()]
    return content_key([element.name for element in elements], tree_digest(*elements), linked)
