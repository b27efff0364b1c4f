"""What a boot loader would find on a disk: which entries, in which order it takes them, and whether each is whole.

Written from the loaders' own documents, and apart from what the device runs: a mistake there is not repeated here.
"""

import hashlib
import mmap
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cmp_to_key
from pathlib import Path
from typing import BinaryIO, cast

from osbuild.formats import uimage
from osbuild.formats.fat import Fat, File
from osbuild.inputs.build_manifest import Manifest
from osbuild.inspection.boot_images import read_uki
from osbuild.shared import uboot_state
from osbuild.shared.errors import Error
from support.replay import BLOCK, Disk, Stamps

UKI = re.compile(r"(?P<id>.*?)(?:\+(?P<left>\d+)(?:-(?P<done>\d+))?)?\.efi", re.IGNORECASE)
IMAGE = re.compile(r"edge-(?P<id>[a-z])\.img", re.IGNORECASE)
# What a boot loader or an update writes anew: entries and their parts, the random seed.
CHANGING = re.compile(r"edge-|random-seed", re.IGNORECASE)
TORN = "its checksum is wrong"


@dataclass(frozen=True)
class Version:
    """A build that may be on a disk; `boot` is the sha256 of a slot's boot file -> the slot."""

    name: str
    root: Path
    tree: Path
    root_hash: str
    boot: Mapping[str, str]

    @classmethod
    def of(cls, folder: Path) -> "Version":
        """From the folder of a build."""
        manifest = Manifest.read(folder)
        boot = {
            file.sha256: found[1]
            for name, file in manifest.files.items()
            if (found := re.fullmatch(r"edge-([a-z])\.\w+", name))
        }
        return cls(manifest.version, folder / "root.erofs", folder / "root.verity", manifest.roothash, boot)


@dataclass(frozen=True)
class Candidate:
    """An entry as a boot loader sees it; `left` is None where its boots are not counted.

    `version` and `slot` are those of the build that the file is from, None where it is from none. `problem` says what
    keeps it from booting.
    """

    file: str
    version: str | None
    slot: str | None
    left: int | None
    done: int
    problem: str | None

    def __str__(self) -> str:
        what = f"{self.version} in slot {self.slot}" if self.version else "of no build"
        return f"{self.file} ({what}{f'; {self.problem}' if self.problem else ''})"


@dataclass(frozen=True)
class Listed:
    """A boot file as it is named and what systemd-boot sorts it by; `digest` is None where it can't be read."""

    path: str
    id: str
    left: int | None
    done: int
    digest: str | None
    problem: str | None
    sort_key: str = ""
    version: str = ""


class Reference:
    """A file that a partition should begin with, compared again only where the disk has changed since."""

    def __init__(self, disk: Disk, piece: str, path: Path) -> None:
        self.disk, self.place = disk, disk.piece(piece)
        with path.open("rb") as file:
            self.wanted = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._seen: Stamps | None = None
        self._bad: set[int] = set()
        self._stamp = -1

    def close(self) -> None:
        self.wanted.close()

    def damage(self) -> int:
        """How many blocks of the partition are not those of the file."""
        if (stamp := self.disk.stamp(self.place)) == self._stamp:
            return len(self._bad)
        self._stamp = stamp
        now = self.disk.stamps(self.place.offset, len(self.wanted))
        for number in changed(self._seen, now):
            begin, end = number * BLOCK, min(len(self.wanted), (number + 1) * BLOCK)
            if self.disk.read(self.place.offset + begin, end - begin) == self.wanted[begin:end]:
                self._bad.discard(number)
            else:
                self._bad.add(number)
        self._seen = now
        return len(self._bad)


def changed(before: "Stamps | None", now: Stamps) -> list[int]:
    """Which stamps differ; all of them where there were none before."""
    if before is None:
        return list(range(len(now)))
    found, step = [], 1024
    for begin in range(0, len(now), step):
        old, new = before[begin : begin + step], now[begin : begin + step]
        if old != new:
            found += [begin + place for place, stamp in enumerate(new) if old[place] != stamp]
    return found


class Loader:
    """Reads a disk as its boot loader does, and remembers what has not changed since."""

    def __init__(self, disk: Disk, versions: Sequence[Version], *, kind: str = "uefi") -> None:
        """`kind` is the boot flow, uefi or uboot. `versions` are all builds that may be on the disk."""
        self.disk, self.kind, self.versions = disk, kind, versions
        self.esp = disk.piece("esp")
        self._known: dict[str, tuple[Version, str]] = {
            digest: (version, slot) for version in versions for digest, slot in version.boot.items()
        }
        self._digests: dict[bytes, str] = {}
        self._references: dict[tuple[str, str], tuple[Reference, Reference]] = {}
        self._listed: dict[int, list[Listed]] = {}

    def close(self) -> None:
        for pair in self._references.values():
            for reference in pair:
                reference.close()

    def order(self) -> list[Candidate]:
        """The entries that the boot loader takes, best first. Raises `Error` where it can read none."""
        listed = self._files_listed()
        if self.kind == "uboot":
            return self._uboot(listed)
        return [self._candidate(each) for each in sorted(listed, key=cmp_to_key(compare_names))]

    def protected(self) -> dict[str, str]:
        """Files of the boot partition that no update may change: path -> sha256."""
        with self._view() as file:
            fat = Fat(file, self.esp.offset, "the boot partition")
            files = [each for each in fat.walk() if not each.folder and not CHANGING.match(each.path.name)]
            return {str(each.path): self._digest(fat, each) for each in files}

    def _view(self) -> BinaryIO:
        return cast(BinaryIO, self.disk.open())

    def _files_listed(self) -> list[Listed]:
        """The boot files, looked for again only where the boot partition has changed."""
        key = self.disk.stamp(self.esp)
        if key not in self._listed:
            with self._view() as file:
                fat = Fat(file, self.esp.offset, "the boot partition")
                found = (self._list(fat, each) for each in fat.walk() if not each.folder)
                self._listed[key] = [each for each in found if each]
        return self._listed[key]

    def _list(self, fat: Fat, file: File) -> Listed | None:
        """A file that the boot loader may start, None where it is none; systemd-boot(7), docs/boards.md."""
        uefi = self.kind == "uefi"
        matched = (UKI if uefi else IMAGE).fullmatch(file.path.name)
        if not matched or str(file.path.parent).lower() != ("efi/linux" if uefi else "."):
            return None
        counted = matched.groupdict().get("left")
        left, done = None if counted is None else int(counted), int(matched.groupdict().get("done") or 0)
        path, name = str(file.path), matched["id"].lower()
        try:
            digest = self._digest(fat, file)
        except Error as error:
            return Listed(path, name, left, done, None, error.message)
        entry = read_uki(fat, file) if uefi else None
        if entry and not (entry.os_release and {".linux", ".osrel"} <= entry.sections.keys()):
            return None  # such as an empty file: systemd-boot does not list what tells nothing of itself
        if digest not in self._known:
            torn = not uefi and not passes(fat, file)
            return Listed(path, name, left, done, None, TORN if torn else "its bytes are of no build")
        release = entry.os_release if entry else {}
        fields = ("IMAGE_VERSION", "VERSION", "VERSION_ID", "BUILD_ID")
        version = next((release[field] for field in fields if field in release), "")
        key = release.get("IMAGE_ID") or release.get("ID", "")
        return Listed(path, name, left, done, digest, None, key, version)

    def _uboot(self, listed: Sequence[Listed]) -> list[Candidate]:
        place = self.disk.piece(uboot_state.PARTITION)
        copies = [
            uboot_state.decode_state(self.disk.read(place.offset + at, uboot_state.COPY_SIZE))
            for at in uboot_state.COPY_OFFSETS
        ]
        state = uboot_state.newest_state(copies)
        by_slot = {each.id: each for each in listed if each.problem != TORN}  # these are passed over
        found = []
        for slot in dict.fromkeys((*state.order, *sorted(by_slot))):
            if slot in by_slot:
                counter = state.counter(slot)
                found.append(self._candidate(replace(by_slot[slot], left=counter.left, done=counter.done)))
        return sorted(found, key=lambda each: each.left == 0)

    def _candidate(self, listed: Listed) -> Candidate:
        if listed.digest is None:
            return Candidate(listed.path, None, None, listed.left, listed.done, listed.problem)
        version, slot = self._known[listed.digest]
        problem = self._damage(slot, version)
        if not re.search(rf"-{slot}$|^{slot}$", listed.id):
            problem = f"it is the file of slot {slot}"
        return Candidate(listed.path, version.name, slot, listed.left, listed.done, problem)

    def _digest(self, fat: Fat, file: File) -> str:
        """sha256 of a file, computed again only where one of its blocks has changed."""
        key = hashlib.blake2b(str(file.size).encode())
        for offset, size in fat.extents(file):
            key.update(f"{offset} {size}".encode() + self.disk.stamps(self.esp.offset + offset, size).tobytes())
        found = self._digests.get(key.digest())
        if found is None:
            found = self._digests[key.digest()] = hashlib.sha256(fat.read(file)).hexdigest()
        return found

    def _damage(self, slot: str, version: Version) -> str | None:
        """What is wrong with the root and hash tree that an entry would start."""
        if (slot, version.name) not in self._references:
            self._references[slot, version.name] = (
                Reference(self.disk, f"root-{slot}", version.root),
                Reference(self.disk, f"root-{slot}-verity", version.tree),
            )
        root, tree = (each.damage() for each in self._references[slot, version.name])
        if root or tree:
            return f"{root} blocks of its root and {tree} of its hash tree are not those of {version.name}"
        return None


def passes(fat: Fat, file: File) -> bool:
    """U-Boot finds an image's checksums right."""
    try:
        uimage.parse_multi(fat.read(file), str(file.path))
    except Error:
        return False
    return True


def compare_names(one: Listed, other: Listed) -> int:
    """Below 0 where systemd-boot takes `one` first."""
    if (one.left == 0) != (other.left == 0):
        return 1 if one.left == 0 else -1
    if bool(one.sort_key) != bool(other.sort_key):
        return 1 if not one.sort_key else -1
    if one.sort_key and one.sort_key != other.sort_key:
        return -1 if one.sort_key < other.sort_key else 1
    if one.sort_key and (order := versions(other.version, one.version)):
        return order
    if order := versions(other.id, one.id):
        return order
    if one.left is not None and other.left is not None and one.left != other.left:
        return other.left - one.left
    return one.done - other.done


def versions(one: str, other: str) -> int:
    """Below 0 where `one` is the older version (UAPI.10, "Version Format Specification"), as far as names here go."""
    left, right = ([*re.findall(r"\d+|[a-z]+|[~^.-]", text.lower()), ""] for text in (one, other))
    rank = {"~": 0, "": 1, "-": 2, "^": 3, ".": 4}
    for mine, its in zip(left, right, strict=False):
        if mine.isdigit() and its.isdigit() and int(mine) != int(its):
            return int(mine) - int(its)
        if mine in rank or its in rank:
            if mine != its:
                return rank.get(mine, 5) - rank.get(its, 5)
        elif mine.isdigit() != its.isdigit():
            return 1 if mine.isdigit() else -1
        elif mine != its and not mine.isdigit():
            return -1 if mine < its else 1
    return 0
