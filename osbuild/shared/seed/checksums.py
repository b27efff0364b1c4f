"""Checksum files, in every form that `sha256sum -c` accepts (GNU coreutils)."""

import re
from collections.abc import Iterator

from osbuild.shared.seed.refused import SeedRefused

# `DIGEST  NAME`, `DIGEST *NAME`, `DIGEST NAME`; a leading backslash says that the name has escapes.
PLAIN = re.compile(r"^[ \t]*(\\?)([0-9A-Fa-f]{64})[ \t][ *]?(.+)$")
# `SHA256 (NAME) = DIGEST`, written by BSD and `sha256sum --tag`, and by OpenSSL without blanks.
TAGGED = re.compile(r"^[ \t]*(\\?)(?:SHA256|SHA2-256) ?\((.+)\) ?= ?([0-9A-Fa-f]{64})$")
ESCAPES = {"\\\\": "\\", "\\n": "\n", "\\r": "\r"}


def checksum_lines(text: str) -> Iterator[tuple[str, str]]:
    """Yield name, without `./`, and lower-case digest of every valid line. A byte order mark is skipped."""
    for line in text.removeprefix("\ufeff").splitlines():
        if line.startswith("#"):
            continue
        if match := TAGGED.match(line.rstrip()):
            escaped, name, digest = match.groups()
        elif match := PLAIN.match(line):
            escaped, digest, name = match.groups()
        else:
            continue
        if escaped:
            name = re.sub(r"\\[\\nr]", lambda match: ESCAPES[match.group()], name)
        yield name.removeprefix("./"), digest.lower()


def parse_checksums(text: bytes) -> dict[str, str]:
    """Name -> lower-case digest. Comments and invalid lines are skipped.

    Raises `SeedRefused` if no line is valid, or two lines give different digests of one name.
    """
    digests: dict[str, str] = {}
    for name, digest in checksum_lines(text.decode(errors="replace")):
        if digests.setdefault(name, digest) != digest:
            raise SeedRefused(f"SHA256SUMS has two different checksums of {name}; create it again with `sha256sum`")
    if not digests:
        raise SeedRefused("SHA256SUMS has no valid line; create it with `sha256sum`")
    return digests
