"""A build as the source of a bundle: what its manifest says, checked against the files that are there."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osbuild.agent.system import read_file
from osbuild.boot.flows import FLOWS
from osbuild.cache import file_digest
from osbuild.errors import Error
from osbuild.jsontext import loads
from osbuild.profile.model import VERSION
from osbuild.superblock import verity

AGAIN = "run `edge-osbuild build` again"
BOOT_FILE = re.compile(r"edge-(?P<slot>[a-z])\.(?P<suffix>\w+)")
SEMANTIC = re.compile(VERSION)


@dataclass(frozen=True)
class Source:
    """One build. `boot` is slot -> its boot file, which belongs into `boot_folder` of the boot partition.

    `downgrade` is a version: devices that run it may take this one although it is older. Empty for none.
    `change_owner` lets devices take it although its image trusts none of their roots.
    """

    folder: Path
    facts: Mapping[str, Any]
    boot: Mapping[str, Path]
    boot_folder: str
    downgrade: str = ""
    change_owner: bool = False

    @property
    def board(self) -> str:
        """What hardware it is for: the board, in older builds the architecture."""
        return str(self.facts.get("board") or self.facts["architecture"])

    @property
    def version(self) -> str:
        return str(self.facts["version"])

    @property
    def compatible(self) -> str:
        """What a device must be to install this (RAUC's `compatible`)."""
        return compatible(str(self.facts["name"]), self.board)

    @property
    def title(self) -> str:
        return f"{self.facts['name']}-{self.version}-{self.board}"

    @property
    def root(self) -> Path:
        return self.folder / "root.erofs"

    @property
    def tree(self) -> Path:
        return self.folder / "root.verity"

    @property
    def indexed(self) -> bool:
        """Whether the lowest level of the hash tree is the sha256 of each block of the root: it has no salt."""
        with self.tree.open("rb") as file:
            found = verity(file, 0)
        return found is not None and not found.salt and found.root_hash == self.facts["roothash"]


def compatible(profile: str, board: str) -> str:
    """RAUC's `compatible` of a profile's images for a board: a device takes no bundle with another one."""
    return f"edge-osbuild-{profile}-{board}"


def read(folder: Path) -> Source:
    """The build in `folder`. Raises `Error` where there is none, or a part of it is missing."""
    where = str(folder)
    if not folder.is_dir():
        hint = "name the folder of a build, such as build/minimal-1.0.0-x86_64"
        raise Error("this is no build" if folder.exists() else "there is no such folder", where=where, hint=hint)
    try:
        facts = loads(read_file(folder / "manifest.json"))
        files = {str(name): str(file["sha256"]) for name, file in facts["files"].items()}
        _ = facts["name"], facts["version"], facts["architecture"], facts["roothash"]
    except FileNotFoundError as error:
        hint = "`edge-osbuild build` makes one; an interrupted one has no manifest.json"
        raise Error("there is no finished build in this folder", where=where, hint=hint) from error
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise Error(f"its manifest.json is damaged: {error!r}", where=where, hint=AGAIN) from error
    boot = {found["slot"]: found for name in sorted(files) if (found := BOOT_FILE.fullmatch(name))}
    places = {boot_folder(found["suffix"]) for found in boot.values()}
    if len(boot) < 2 or len(places) != 1 or None in places or not {"root.erofs", "root.verity"} <= files.keys():
        message = f"its manifest.json names no root and boot files for two slots, but: {', '.join(sorted(files))}"
        raise Error(message, where=where, hint=AGAIN)
    for name in ("root.erofs", "root.verity", *(found[0] for found in boot.values())):
        if (folder / name).exists() and not (folder / name).is_file():
            raise Error("this is not a file", where=str(folder / name), hint=AGAIN)
    return Source(folder, facts, {slot: folder / found[0] for slot, found in boot.items()}, str(places.pop()))


def boot_folder(suffix: str) -> str | None:
    """Where on the boot partition the boot flow with such boot files has them, "" at the top; None if there is none."""
    for flow in FLOWS.values():
        if flow.suffix == suffix:
            return str(Path(flow.installed("a")).parent).removeprefix(".")
    return None


def check(source: Source) -> None:
    """Raises `Error` where a file is not the one that was built, or the version is none that can be compared."""
    if not SEMANTIC.fullmatch(source.version):
        message = f"the version `{source.version}` can't be compared with others, so devices could be moved back by it"
        raise Error(message, where=str(source.folder), hint="write `version: 1.2.3` in the profile (semver.org)")
    for path in (source.root, source.tree, *source.boot.values()):
        try:
            same = file_digest(path) == source.facts["files"][path.name]["sha256"]
        except OSError as error:
            raise Error(f"cannot be read: {error.strerror}", where=str(path), hint=AGAIN) from error
        if not same:
            raise Error("is not the file that was built: its sha256 differs", where=str(path), hint=AGAIN)
