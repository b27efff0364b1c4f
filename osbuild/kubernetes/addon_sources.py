"""Sources of an add-on's program with a copy of a Go module, of which some packages are replaced by our own.

`go.mod` cannot replace a single package. So the program's `go.mod` replaces the whole module by a folder. In this
repository the folder contains a `go.mod` and a `go.sum` that pin the module, and the packages of our own.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from osbuild.host.cache import Cache
from osbuild.kubernetes import go_toolchain


@dataclass(frozen=True)
class ModuleCopy:
    """The copy of `module` in a folder of the sources, without the files and folders that are `left_out`."""

    folder: str
    module: str
    left_out: tuple[str, ...]


def complete_sources(source: Path, copy: ModuleCopy, target: Path, cache: Cache, *, folder: Path | None = None) -> None:
    """Copy the sources to `target`, with the module's files. Raises `Error`."""
    shutil.copytree(source, target)
    pinned = target / copy.folder
    module = go_toolchain.download_module(copy.module, pinned, cache, folder=folder)
    for name in ("go.mod", "go.sum"):  # the module's own come instead
        (pinned / name).unlink()

    def choose(parent: str, names: list[str]) -> set[str]:
        return set(copy.left_out) if Path(parent) == module else {name for name in names if name.endswith("_test.go")}

    shutil.copytree(module, pinned, ignore=choose, copy_function=shutil.copyfile, dirs_exist_ok=True)
