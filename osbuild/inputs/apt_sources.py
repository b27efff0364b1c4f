"""Where Debian's packages come from: the suite, the mirror, and what its Release files say."""

import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import unquote

from osbuild.shared.errors import Error

SUITE = "trixie"
COMPONENTS = ("main", "non-free-firmware")  # the second contains the firmware of the Raspberry Pi
MIRROR = "EDGE_OSBUILD_MIRROR"


@dataclass(frozen=True)
class Release:
    """The date and the names (suite, codename) of a Release file (Debian's wiki, "RepositoryFormat")."""

    date: datetime | None
    names: frozenset[str]


def read_releases(root: Path) -> dict[str, Release]:
    """The Release files in an apt root, by the address of their suite as apt writes it."""
    found = {}
    for path in (root / "var/lib/apt/lists").glob("*Release"):
        lines = path.read_text(errors="replace").splitlines()
        fields = dict(line.split(": ", 1) for line in lines if line[:1].isalpha() and ": " in line)
        date = None
        with suppress(ValueError):
            date = parsedate_to_datetime(fields.get("Date", ""))
        names = frozenset(fields[name] for name in ("Suite", "Codename") if name in fields)
        found[re.sub(r"_(In)?Release$", "", path.name)] = Release(date, names)
    return found


def check_releases(old: Path, new: Path) -> None:
    """Raises `Error` if the archive gives another suite than was asked for, or an older one than it gave before.

    apt only warns of that: whoever holds updates back can give the signed files of another day or release.
    """
    before = read_releases(old)
    for address, release in read_releases(new).items():
        shown, suite = unquote(address).replace("_", "/"), address.partition("_dists_")[2]
        hint = f"use another mirror ({MIRROR})"
        if suite and release.names and suite not in release.names:
            raise Error(
                f"the mirror's index is of {', '.join(sorted(release.names))}, not {suite}", where=shown, hint=hint
            )
        last = before[address].date if address in before else None
        if last and release.date and release.date < last:
            read = f"the index that was read before, of {last:%Y-%m-%d %H:%M}"
            message = f"the index is of {release.date:%Y-%m-%d %H:%M}, older than {read}"
            hint = f"the mirror lags, or somebody withholds updates: {hint}. To accept this index, remove {old}"
            raise Error(message, where=shown, hint=hint)


def store_mirror(mirror: str, folder: Path, suite: str = SUITE) -> Path:
    """The sources of $EDGE_OSBUILD_MIRROR, a URL or lines of sources.list(5), as a file in `folder`, or its own."""
    if "\n" not in mirror and Path(mirror).is_file():
        return Path(mirror)
    path = folder / ("mirror.sources" if re.search(r"^Types:", mirror, re.MULTILINE) else "mirror.list")
    line = mirror if len(mirror.split()) > 1 else f"deb {mirror} {suite} {' '.join(COMPONENTS)}"
    path.write_text(f"{line}\n")
    return path
