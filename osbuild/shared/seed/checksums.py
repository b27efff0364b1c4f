"""Checksum files, in every form that `sha256sum -c` accepts (GNU coreutils)."""

import re

from osbuild.shared.seed.refused import SeedRefused

# `DIGEST  NAME`, `DIGEST *NAME`, `DIGEST NAME`; a leading backslash says that the name has escapes.
PLAIN = re.compile(r"^[ \t]*(\\?)([0-9A-Fa-f]{64})[ \t][ *]?(.+)$")
# `SHA256 (NAME) = DIGEST`, as BSD and `sha256sum --tag` write it, and OpenSSL without the blanks.
TAGGED = re.compile(r"^[ \t]*(\\?)(?:SHA256|SHA2-256) ?\((.+)\) ?= ?([0-9A-Fa-f]{64})$")
ESCAPES = {"\\\\": "\\", "\\n": "\n", "\\r": "\r"}


def parse_checksums(text: bytes) -> dict[str, str]:
    """Name -> lower-case digest. Comments and lines of another form are skipped; raises `Refused` if none is left."""
    found = {}
    for line in text.decode("utf-8-sig", errors="replace").splitlines():
        if line.startswith("#"):
            continue
        if match := TAGGED.match(line.rstrip()):
            escaped, name, digest = match.groups()
        elif match := PLAIN.match(line):
            escaped, digest, name = match.groups()
        else:
            continue
        if escaped:
            name = re.sub(r"\\[\\nr]", lambda one: ESCAPES[one.group()], name)
        found[name.removeprefix("./")] = digest.lower()
    if not found:
        raise SeedRefused("SHA256SUMS has no line that `sha256sum -c` understands")
    return found
