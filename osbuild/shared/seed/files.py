"""The files of a seed, read from a folder."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from osbuild.shared.seed import checksums
from osbuild.shared.seed.refused import SeedRefused

# The first line of a signed SHA256SUMS. It distinguishes a seed from other files that the same keys sign.
SIGNED_HEADER = b"# edge-osbuild seed\n"

REQUIRED = ("user-data", "meta-data")
OPTIONAL = ("network-config", "vendor-data")
CHECKSUMS = "SHA256SUMS"
SIGNATURE = "SHA256SUMS.p7s"
LIMIT = 4 * 2**20  # bytes of one file


@dataclass(frozen=True)
class SeedFiles:
    """The files of a seed by name. `sums` is the checksum file, `signature` its signature; both may be None."""

    files: dict[str, bytes]
    sums: bytes | None = field(default=None, compare=False)
    signature: bytes | None = field(default=None, compare=False)

    @property
    def digest(self) -> str:
        """A hash of all files, 32 hexadecimal digits."""
        digest = hashlib.sha256()
        for name in sorted(self.files):
            digest.update(f"{name}\0{len(self.files[name])}\0".encode() + self.files[name])
        return digest.hexdigest()[:32]


def read_seed(folder: Path) -> SeedFiles:
    """Read the seed in `folder`. Raises `SeedRefused` if it is not complete, `OSError` if it cannot be read.

    If there is a file SHA256SUMS (sha256sum(1)), every file listed there must have its checksum.
    """
    files = {name: data for name in (*REQUIRED, *OPTIONAL) if (data := read_seed_file(folder, name)) is not None}
    for name in REQUIRED:
        if name not in files:
            raise SeedRefused(f"{name} is missing")
    if not any(files[name].strip() for name in REQUIRED):
        raise SeedRefused("user-data and meta-data are both empty")
    listed = read_seed_file(folder, CHECKSUMS)
    if listed and listed.strip():
        check_sums(folder, files, listed)
    return SeedFiles(files, sums=listed, signature=read_seed_file(folder, SIGNATURE))


def read_seed_file(folder: Path, name: str) -> bytes | None:
    """The contents of a file; None if it is missing. Raises `SeedRefused` if it is too large, or `OSError`."""
    path = folder / name
    if not path.exists():
        return None
    if not path.is_file():
        raise SeedRefused(f"{name} is not a file")
    with path.open("rb") as file:
        data = file.read(LIMIT + 1)
    if len(data) > LIMIT:
        raise SeedRefused(f"{name} is larger than {LIMIT} bytes")
    return data


def check_sums(folder: Path, files: dict[str, bytes], text: bytes) -> None:
    """Raise `SeedRefused` if a file does not have its checksum from the checksum file `text`."""
    for name, digest in checksums.parse_checksums(text).items():
        data = files.get(name)
        if data is None:
            is_inside = name and not name.startswith("/") and ".." not in name.split("/")
            data = read_seed_file(folder, name) if is_inside else None
        if data is None:
            raise SeedRefused(f"{name} is listed in {CHECKSUMS}, but missing in the seed")
        if hashlib.sha256(data).hexdigest() != digest:
            raise SeedRefused(f"{name} does not have the checksum from {CHECKSUMS}")
