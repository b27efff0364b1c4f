"""The boot entries on a disk as a boot loader reads them: their order, and whether each is intact.

Written from the documentation of the boot loaders, independently of the edge agent, so that a defect of one is not
repeated in the other.
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
# Files that a boot loader or an update writes: entries, parts of them, and the random seed.
CHANGING = re.compile(r"edge-|random-seed", re.IGNORECASE)
TORN = "its checksum is wrong"


@dataclass(frozen=True)
class KnownVersion:
    """A build that may be on a disk; `boot` maps the sha256 of a boot image to its slot."""

    name: str
    root: Path
    tree: Path
    root_hash: str
    boot: Mapping[str, str]

    @classmethod
    def of(cls, folder: Path) -> "KnownVersion":
        """Read a version from its build folder."""
        manifest = Manifest.read(folder)
        boot = {
            file.sha256: match[1]
            for name, file in manifest.files.items()
            if (match := re.fullmatch(r"edge-([a-z])\.\w+", name))
        }
        return cls(manifest.version, folder / "root.erofs", folder / "root.verity", manifest.roothash, boot)


@dataclass(frozen=True)
class Candidate:
    """An entry as a boot loader sees it; `left` is the number of tries left, None if its boots are not counted.

    `version` and `slot` are those of the build that the file is from, None if it is from no known build. `problem` is
    the reason why it cannot boot.
    """

    file: str
    version: str | None
    slot: str | None
    left: int | None
    done: int
    problem: str | None

    def __str__(self) -> str:
        origin = f"{self.version} in slot {self.slot}" if self.version else "of no build"
        return f"{self.file} ({origin}{f'; {self.problem}' if self.problem else ''})"


@dataclass(frozen=True)
class Listed:
    """A boot image's name, and the fields that systemd-boot sorts by; `digest` is None if it can't be read."""

    path: str
    id: str
    left: int | None
    done: int
    digest: str | None
    problem: str | None
    sort_key: str = ""
    version: str = ""


class Reference:
    """A file that a partition should begin with. Only blocks that have changed are compared again."""

    def __init__(self, disk: Disk, piece: str, path: Path) -> None:
        self.disk, self.partition = disk, disk.piece(piece)
        with path.open("rb") as file:
            self.expected = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._seen: Stamps | None = None
        self._bad: set[int] = set()
        self._stamp = -1

    def close(self) -> None:
        self.expected.close()

    def damage(self) -> int:
        """Return the number of blocks of the partition that differ from the file."""
        if (stamp := self.disk.stamp(self.partition)) == self._stamp:
            return len(self._bad)
        self._stamp = stamp
        stamps = self.disk.stamps(self.partition.offset, len(self.expected))
        for number in changed_stamps(self._seen, stamps):
            begin, end = number * BLOCK, min(len(self.expected), (number + 1) * BLOCK)
            if self.disk.read(self.partition.offset + begin, end - begin) == self.expected[begin:end]:
                self._bad.discard(number)
            else:
                self._bad.add(number)
        self._seen = stamps
        return len(self._bad)


def changed_stamps(before: "Stamps | None", after: Stamps) -> list[int]:
    """Return the indexes of the stamps that differ; all indexes if `before` is None."""
    if before is None:
        return list(range(len(after)))
    indexes, step = [], 1024
    for begin in range(0, len(after), step):
        old, new = before[begin : begin + step], after[begin : begin + step]
        if old != new:
            indexes += [begin + index for index, stamp in enumerate(new) if old[index] != stamp]
    return indexes


class BootLoaderModel:
    """Reads a disk like its boot loader, and caches what has not changed since."""

    def __init__(self, disk: Disk, versions: Sequence[KnownVersion], *, kind: str = "uefi") -> None:
        """`kind` is the boot flow, uefi or uboot. `compare_versions` are all builds that may be on the disk."""
        self.disk, self.kind, self.versions = disk, kind, versions
        self.esp = disk.piece("esp")
        self._known: dict[str, tuple[KnownVersion, str]] = {
            digest: (version, slot) for version in versions for digest, slot in version.boot.items()
        }
        self._digests: dict[bytes, str] = {}
        self._references: dict[tuple[str, str], tuple[Reference, Reference]] = {}
        self._listed: dict[int, list[Listed]] = {}

    def close(self) -> None:
        for pair in self._references.values():
            for reference in pair:
                reference.close()

    def boot_order(self) -> list[Candidate]:
        """Return the entries in the order in which the boot loader starts them. Raises `Error`."""
        listed = self._files_listed()
        if self.kind == "uboot":
            return self._uboot(listed)
        return [self._candidate(file) for file in sorted(listed, key=cmp_to_key(compare_names))]

    def protected_files(self) -> dict[str, str]:
        """Return the files of the ESP that no update may change: path -> sha256."""
        with self._view() as view:
            fat = Fat(view, self.esp.offset, "the boot partition")
            files = [file for file in fat.walk() if not file.folder and not CHANGING.match(file.path.name)]
            return {str(file.path): self._digest(fat, file) for file in files}

    def _view(self) -> BinaryIO:
        return cast(BinaryIO, self.disk.open())

    def _files_listed(self) -> list[Listed]:
        """Return the boot images. They are read again only if the ESP has changed."""
        key = self.disk.stamp(self.esp)
        if key not in self._listed:
            with self._view() as view:
                fat = Fat(view, self.esp.offset, "the boot partition")
                listed = (self._list(fat, file) for file in fat.walk() if not file.folder)
                self._listed[key] = [file for file in listed if file]
        return self._listed[key]

    def _list(self, fat: Fat, file: File) -> Listed | None:
        """Return a file that the boot loader may start; None for other files. See systemd-boot(7), docs/boards.md."""
        uefi = self.kind == "uefi"
        matched = (UKI if uefi else IMAGE).fullmatch(file.path.name)
        if not matched or str(file.path.parent).lower() != ("efi/linux" if uefi else "."):
            return None
        tries = matched.groupdict().get("left")
        left, done = None if tries is None else int(tries), int(matched.groupdict().get("done") or 0)
        path, name = str(file.path), matched["id"].lower()
        try:
            digest = self._digest(fat, file)
        except Error as error:
            return Listed(path, name, left, done, None, error.message)
        entry = read_uki(fat, file) if uefi else None
        if entry and not (entry.os_release and {".linux", ".osrel"} <= entry.sections.keys()):
            return None  # such as an empty file: systemd-boot lists only files with these sections
        if digest not in self._known:
            torn = not uefi and not has_valid_checksums(fat, file)
            return Listed(path, name, left, done, None, TORN if torn else "its bytes are of no build")
        release = entry.os_release if entry else {}
        fields = ("IMAGE_VERSION", "VERSION", "VERSION_ID", "BUILD_ID")
        version = next((release[field] for field in fields if field in release), "")
        key = release.get("IMAGE_ID") or release.get("ID", "")
        return Listed(path, name, left, done, digest, None, key, version)

    def _uboot(self, listed: Sequence[Listed]) -> list[Candidate]:
        partition = self.disk.piece(uboot_state.PARTITION)
        copies = [
            uboot_state.decode_state(self.disk.read(partition.offset + copy_offset, uboot_state.COPY_SIZE))
            for copy_offset in uboot_state.COPY_OFFSETS
        ]
        state = uboot_state.newest_state(copies)
        by_slot = {file.id: file for file in listed if file.problem != TORN}  # U-Boot skips torn images
        candidates = []
        for slot in dict.fromkeys((*state.order, *sorted(by_slot))):
            if slot in by_slot:
                counter = state.counter(slot)
                candidates.append(self._candidate(replace(by_slot[slot], left=counter.left, done=counter.done)))
        return sorted(candidates, key=lambda file: file.left == 0)

    def _candidate(self, listed: Listed) -> Candidate:
        if listed.digest is None:
            return Candidate(listed.path, None, None, listed.left, listed.done, listed.problem)
        version, slot = self._known[listed.digest]
        problem = self._damage(slot, version)
        if not re.search(rf"-{slot}$|^{slot}$", listed.id):
            problem = f"it is the file of slot {slot}"
        return Candidate(listed.path, version.name, slot, listed.left, listed.done, problem)

    def _digest(self, fat: Fat, file: File) -> str:
        """Return the sha256 of a file. It is computed again only if one of its blocks has changed."""
        key = hashlib.blake2b(str(file.size).encode())
        for offset, size in fat.extents(file):
            key.update(f"{offset} {size}".encode() + self.disk.stamps(self.esp.offset + offset, size).tobytes())
        digest = self._digests.get(key.digest())
        if digest is None:
            digest = self._digests[key.digest()] = hashlib.sha256(fat.read(file)).hexdigest()
        return digest

    def _damage(self, slot: str, version: KnownVersion) -> str | None:
        """Return a description of damage to the root and hash tree that an entry would start; None if intact."""
        if (slot, version.name) not in self._references:
            self._references[slot, version.name] = (
                Reference(self.disk, f"root-{slot}", version.root),
                Reference(self.disk, f"root-{slot}-verity", version.tree),
            )
        root, tree = (reference.damage() for reference in self._references[slot, version.name])
        if root or tree:
            return f"{root} blocks of its root and {tree} of its hash tree are not those of {version.name}"
        return None


def has_valid_checksums(fat: Fat, file: File) -> bool:
    """Whether U-Boot accepts the checksums of an image."""
    try:
        uimage.parse_multi(fat.read(file), str(file.path))
    except Error:
        return False
    return True


def compare_names(first: Listed, second: Listed) -> int:
    """Return a number below 0 if systemd-boot prefers `first`, above 0 if it prefers `second`."""
    if (first.left == 0) != (second.left == 0):
        return 1 if first.left == 0 else -1
    if bool(first.sort_key) != bool(second.sort_key):
        return 1 if not first.sort_key else -1
    if first.sort_key and first.sort_key != second.sort_key:
        return -1 if first.sort_key < second.sort_key else 1
    if first.sort_key and (order := compare_versions(second.version, first.version)):
        return order
    if order := compare_versions(second.id, first.id):
        return order
    if first.left is not None and second.left is not None and first.left != second.left:
        return second.left - first.left
    return first.done - second.done


def compare_versions(first: str, second: str) -> int:
    """Return a number below 0 if `first` is the older version (UAPI.10, "Version Format Specification").

    Implements only the characters that occur in names here.
    """
    left, right = ([*re.findall(r"\d+|[a-z]+|[~^.-]", text.lower()), ""] for text in (first, second))
    rank = {"~": 0, "": 1, "-": 2, "^": 3, ".": 4}
    for part, other_part in zip(left, right, strict=False):
        if part.isdigit() and other_part.isdigit() and int(part) != int(other_part):
            return int(part) - int(other_part)
        if part in rank or other_part in rank:
            if part != other_part:
                return rank.get(part, 5) - rank.get(other_part, 5)
        elif part.isdigit() != other_part.isdigit():
            return 1 if part.isdigit() else -1
        elif part != other_part and not part.isdigit():
            return -1 if part < other_part else 1
    return 0
