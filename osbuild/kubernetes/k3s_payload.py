"""Unpacks the programs inside a K3s release binary.

The binary is a small Go program with an embedded file `SHA256.tar.zst`, whose name is its own SHA-256. Go stores the
name and the file uncompressed in the ELF file's read-only data, so both can be found without running the program, for
any architecture.
"""

import hashlib
import mmap
import re
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from osbuild.formats.compression import ZSTD
from osbuild.host import log
from osbuild.host.architecture import Architecture
from osbuild.host.cache import Cache, content_key
from osbuild.host.run import CommandError
from osbuild.sandbox.tools_tree import ToolsTree
from osbuild.shared.errors import Error

FORMAT = 1  # increased when `unpack_payload` unpacks the same binary differently
NAME = re.compile(rb"(?<![0-9a-f])([0-9a-f]{64})\.tar\.zst")
MACHINES = {Architecture.x86_64: 62, Architecture.arm64: 183, Architecture.armv7: 40}  # e_machine, elf(5)
# The image uses Debian's containerd and runc instead of these.
UNUSED = ("bin/containerd-shim-runc-v2", "bin/runc", "bin/check-config")
LARGEST = 2 * 2**30  # bytes of the unpacked archive, ten times those of a release of 2026
MOST_STEPS = 5_000_000  # of the search for the archive, some microseconds each; a release needs 0.2 million
HINT = "use the unmodified binary `k3s`, `k3s-arm64` or `k3s-armhf` of the release page"


@dataclass(frozen=True)
class Payload:
    """Offset and size of the archive in the binary, in bytes, and its sha256 in hex."""

    offset: int
    size: int
    sha256: str


def check_machine(path: Path, architecture: Architecture) -> None:
    """Raise `Error` unless the file is an ELF program for `architecture` (elf(5))."""
    with path.open("rb") as file:
        header = file.read(20)
    if header[:4] != b"\x7fELF" or len(header) < 20:
        raise Error("is not an ELF program", where=path.name, hint=HINT)
    machine = int.from_bytes(header[18:20], "little")
    if machine != MACHINES[architecture]:
        raise Error(f"is a program for ELF machine {machine}, not for {architecture}", where=path.name, hint=HINT)


class StepLimit:
    """Counts down the steps of a search, which may take quadratic time in a file made for that. Raises `Error`."""

    def __init__(self, name: str) -> None:
        self.name, self.left = name, MOST_STEPS

    def count_steps(self, steps: int) -> None:
        """Count `steps`, one per microsecond or so. Raises `Error` at the limit."""
        self.left -= steps
        if self.left < 0:
            raise Error("has too many beginnings of Zstandard archives", where=self.name, hint=HINT)


def find_payload(path: Path) -> Payload:
    """Find the embedded archive whose SHA-256 is one of the embedded names. Raises `Error` if there is none."""
    limit = StepLimit(path.name)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        names = {match[1].decode() for match in NAME.finditer(data)}
        for start in frame_starts(data):
            digest, end = hashlib.sha256(), start
            # One archive may consist of several frames, if a parallel compressor wrote it.
            while (after := frame_end(data, end, limit)) is not None:
                limit.count_steps((after - end) // 1000 + 1)
                digest.update(memoryview(data)[end:after])
                end = after
                if digest.hexdigest() in names:
                    return Payload(start, end - start, digest.hexdigest())
    message = "no embedded archive has the sha256 in its name" if names else "has no embedded archive"
    raise Error(message, where=path.name, hint=HINT)


def frame_starts(data: mmap.mmap) -> Iterator[int]:
    """Yield offsets at which a Zstandard frame may begin."""
    offset = data.find(ZSTD)
    while offset >= 0:
        yield offset
        offset = data.find(ZSTD, offset + 1)


def frame_end(data: mmap.mmap, start: int, limit: StepLimit) -> int | None:
    """Return the offset after the Zstandard frame at `start`; None without a complete frame (RFC 8878, 3.1.1)."""
    limit.count_steps(1)
    if data[start : start + 4] != ZSTD or start + 6 > len(data):
        return None
    descriptor = data[start + 4]
    single = descriptor & 0x20
    offset = start + 5 + (0 if single else 1) + (0, 1, 2, 4)[descriptor & 3]
    offset += (1 if single else 0, 2, 4, 8)[descriptor >> 6]
    while offset + 3 <= len(data):
        limit.count_steps(1)
        block = int.from_bytes(data[offset : offset + 3], "little")
        kind = block >> 1 & 3
        if kind == 3:  # reserved: these bytes are not a frame
            return None
        offset += 3 + (1 if kind == 1 else block >> 3)  # a run of one byte is stored as that byte
        if block & 1:
            offset += 4 if descriptor & 4 else 0
            return offset if offset <= len(data) else None
    return None


def unpack_payload(program: Path, sha256: str, architecture: Architecture, cache: Cache, tools: ToolsTree) -> Path:
    """Return a folder with `bin/`: inner program, CNI plugins and `aux/`. It is cached.

    `sha256` is the verified SHA-256 of `program`. Raises `Error`.
    """

    def make(path: Path) -> None:
        check_machine(program, architecture)
        payload = find_payload(program)
        with log.step("unpacking K3s"):
            packed, plain = path.with_name("data.tar.zst"), path.with_name("data.tar")
            with program.open("rb") as source, packed.open("wb") as target:
                source.seek(payload.offset)
                target.write(source.read(payload.size))
            if not decompress(packed, plain, LARGEST, tools):
                message = f"its embedded archive has more than {LARGEST} bytes when it is unpacked"
                raise Error(message, where=program.name, hint=HINT)
            path.mkdir()
            try:
                with tarfile.open(plain) as archive:
                    archive.extractall(path, list(used_members(archive)), filter="data")
            except tarfile.TarError as error:
                message = f"its embedded archive cannot be unpacked: {error}"
                raise Error(message, where=program.name, hint=HINT) from error
        for name in ("k3s", "cni"):
            if not (path / "bin" / name).is_file():
                raise Error(f"its embedded archive has no bin/{name}", where=program.name, hint=HINT)
        check_machine(path / "bin/k3s", architecture)

    return cache.get_or_make("k3s", content_key(FORMAT, sha256, architecture), make)


def decompress(packed: Path, plain: Path, largest: int, tools: ToolsTree) -> bool:
    """Decompress a Zstandard file to a file in its folder. Returns whether it has less than `largest` bytes.

    Raises `CommandError` for a damaged file.
    """
    limit = ["prlimit", f"--fsize={largest}"]
    try:
        tools.run_command([*limit, "zstd", "-q", "-d", "--long=31", packed, "-o", plain], [packed.parent])
    except CommandError:
        if plain.exists() and plain.stat().st_size >= largest:
            return False
        raise
    return True


def used_members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the members that an image needs, with fixed modes and owners. Raises `tarfile.TarError`."""
    total = 0
    for entry in archive:
        total += entry.size  # a sparse file may be larger than the archive
        if total > LARGEST:
            raise tarfile.TarError(f"its files have more than {LARGEST} bytes")
        path = PurePosixPath(entry.name)
        aux = path.parts[:2] == ("bin", "aux")
        plugin = path.parent == PurePosixPath("bin") and entry.issym() and entry.linkname == "cni"
        regular = path.parent == PurePosixPath("bin") and entry.isfile() and str(path) not in UNUSED
        if (aux and not entry.isdir()) or plugin or (regular and not path.name.startswith(".")):
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = ""
            entry.mode = 0o755
            yield entry


def install_payload(tree: Path, target: Path) -> None:
    """Copy the programs of `unpack_payload` to the folder `target`. Raises `OSError`."""
    shutil.copytree(tree / "bin", target, symlinks=True)
    target.chmod(0o755)
    for folder in target.glob("**/"):
        folder.chmod(0o755)
