"""Loads a profile: finds its files, merges, parses and checks them."""

import dataclasses
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osbuild.config import document, key_table
from osbuild.config.checks.profile import check_profile
from osbuild.config.document import List, Map, Mark, Scalar, quote_text
from osbuild.config.merge import merge_documents
from osbuild.config.profile import Profile
from osbuild.config.scalars import describe_node, find_nearest
from osbuild.config.values import ValueReader, check_structure
from osbuild.host import paths
from osbuild.host.architecture import Architecture
from osbuild.shared.errors import Error, UsageError

DEFAULT = "default"


@dataclass(frozen=True)
class LoadedProfile:
    """A profile and its origin.

    `origins` maps each dotted key (`kernel.flavour`, `users[0].name`) to `file:line`, "default" or "--arch". Paths in
    the profile are relative to `folder`, the folder of the profile itself, whichever file states them. `files` are all
    files that were read, in the order in which they were merged.
    """

    profile: Profile
    origins: Mapping[str, str]
    folder: Path
    files: tuple[Path, ...]


def find_profile(name: str | Path) -> Path:
    """Return the file of a profile that the command line names: by path, or by the bare name of a shipped profile.

    Raises `UsageError` if it does not exist.
    """
    text = str(name)
    if text.startswith("~/"):  # a shell expands it only at the beginning of a word
        text = os.path.expanduser(text)  # noqa: PTH111 - never raises
    candidates = [Path(text), Path(f"{text}.yaml")]
    if re.fullmatch(r"[A-Za-z0-9_-]+", text):  # a shipped profile has precedence over a folder of that name
        candidates = [paths.PROFILES / f"{text}.yaml", Path(f"{text}.yaml")]
    for path in candidates:
        if paths.path_exists(path):
            return path
    shipped = shipped_profiles()
    suggestion = find_nearest(Path(text).stem, shipped)
    hint = f"did you mean `{suggestion}`?" if suggestion else f"write a path, or one of: {', '.join(shipped)}"
    raise UsageError(f"no profile {quote_text(text)}", hint=hint)


def shipped_profiles() -> list[str]:
    """Return the names of the shipped profiles."""
    return _names(paths.PROFILES)


def argument(path: Path) -> str:
    """Return the argument for the profile at `path` on a command line: the reverse of `find_profile`."""
    return path.stem if path.parent == paths.PROFILES else paths.display_path(path)


def load_profile(
    path: Path, *, architecture: Architecture | None = None, change: Callable[[Map], Map] | None = None
) -> LoadedProfile:
    """Read the profile at `path` with all that it extends. `architecture` overrides the profile's own.

    `change` gets the merged document before its values are read, and returns the document to read.

    Raises one `Error` with file, line and column if anything in the files is invalid.
    """
    path = Path(os.path.abspath(path))  # noqa: PTH100 - `..` is resolved, symbolic links are not
    documents: dict[Path, Map] = {}
    _collect(path, documents, ())
    merged = Map({}, Mark(path))
    for parsed in documents.values():
        merged = merge_documents(merged, parsed)
    if change is not None:
        merged = change(merged)
    reader = ValueReader(path.parent)
    profile = reader.profile(merged)
    origins = {dotted: mark.origin for dotted, mark in reader.keys_at.items()}
    if architecture is not None:
        profile = dataclasses.replace(profile, architecture=architecture)
        origins["architecture"] = "--arch"
    check_profile(profile, _Positions(reader.values_at, tuple(documents), Mark(path)).where, path.parent)
    return LoadedProfile(profile, dict(_complete(profile, "", origins)), path.parent, tuple(documents))


def _collect(path: Path, documents: dict[Path, Map], chain: tuple[Path, ...], mark: Mark | None = None) -> None:
    """Read `path` after what it extends. Each file is read once, so that a shared base does not undo the first user."""
    if path in chain:
        loop = " → ".join(entry.stem for entry in (*chain[chain.index(path) :], path))
        raise Error(f"the profile extends itself: {loop}", where=str(mark), hint="remove one of these `extends`")
    if path in documents:
        return
    if len(chain) == document.DEEPEST:
        raise Error(f"more than {len(chain)} profiles extend each other", where=str(mark), hint="merge some of them")
    parsed = document.read_document(path)
    check_structure(parsed, fragment=bool(chain))
    for name in _extends(parsed):
        _collect(_base(name, path), documents, (*chain, path), name.mark)
    documents[path] = Map(
        {key: entry for key, entry in parsed.entries.items() if key != key_table.INHERIT}, parsed.mark
    )


def _extends(parsed: Map) -> tuple[Scalar, ...]:
    entry = parsed.entries.get(key_table.INHERIT)
    if entry is None:
        return ()
    names = entry.value.items if isinstance(entry.value, List) else (entry.value,)
    for name in names:
        if (
            not isinstance(name, Scalar)
            or name.kind != "string"
            or not re.fullmatch(f"(?=.){key_table.LINE}", name.text)
        ):
            message = (
                f"found {describe_node(name)} for `{key_table.INHERIT}`, expected a profile's name or path, "
                f"or a list of them"
            )
            raise Error(message, where=str(name.mark), hint="write a name such as `minimal`")
    return tuple(name for name in names if isinstance(name, Scalar))


def _base(name: Scalar, path: Path) -> Path:
    """Return the file that `extends: name` means in the profile `path`: beside it, or shipped. Raises `Error`."""
    folders = [path.parent] if "/" in name.text else [path.parent, paths.PROFILES]
    site_profile = None
    for folder in folders:
        for text in (name.text, f"{name.text}.yaml"):
            candidate = Path(os.path.abspath(paths.resolve_named(text, folder)))  # noqa: PTH100
            if paths.path_exists(candidate) and not candidate.is_dir():
                if candidate != path:
                    return candidate
                site_profile = candidate  # a site's own `edge-server` may extend the shipped one
    if site_profile:
        return site_profile
    known = sorted({*_names(path.parent), *shipped_profiles()} - {path.stem})
    suggestion = find_nearest(Path(name.text).stem, known)
    hint = f"did you mean `{suggestion}`?" if suggestion else f"profiles that can be extended are: {', '.join(known)}"
    raise Error(f"found no profile {quote_text(name.text)} to extend", where=str(name.mark), hint=hint)


def _names(folder: Path) -> list[str]:
    try:
        return sorted(entry.stem for entry in folder.glob("*.yaml"))
    except OSError:
        return []


@dataclass(frozen=True)
class _Positions:
    marks: Mapping[str, Mark]
    files: tuple[Path, ...]
    start: Mark

    def where(self, *dotted: str) -> str:
        """Return the position of the key that was stated last, or of its nearest stated parent."""
        marks = [mark for mark in map(self._mark, dotted) if mark]
        marks.sort(key=lambda mark: self._order(mark.path), reverse=True)
        return str(marks[0] if marks else self.start)

    def _order(self, path: Path) -> int:
        """Return the rank of a file in the order of merging; options of the command line rank last."""
        return self.files.index(path) if path in self.files else len(self.files)

    def _mark(self, dotted: str) -> Mark | None:
        while dotted and dotted not in self.marks:
            dotted = re.sub(r"(^|\.)[^.\[]*$|\[[0-9]+\]$", "", dotted)
        return self.marks.get(dotted)


def _complete(block: Any, prefix: str, origins: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    """Yield the origin of every key that is not a block: its position, or the default."""
    for key in key_table.keys_of(type(block)).values():
        dotted, value = f"{prefix}{key.name}", getattr(block, key.name)
        if key.shape.kind is key_table.Kind.BLOCK:
            yield from _complete(value, f"{dotted}.", origins)
            continue
        yield dotted, origins.get(dotted, DEFAULT)
        inside = (f"{dotted}.", f"{dotted}[")
        yield from ((name, origin) for name, origin in origins.items() if name.startswith(inside))
        if key.shape.item and key.shape.item.kind is key_table.Kind.BLOCK:
            is_map = key.shape.kind is key_table.Kind.MAP
            inner = value.items() if is_map else ((f"[{number}]", item) for number, item in enumerate(value))
            for name, item in inner:
                yield from _complete(item, f"{dotted}{'.' if is_map else ''}{name}.", origins)
