"""Debian's control data: the packages in a repository's index or in dpkg's status file (deb-control(5))."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# States of dpkg(1) in which a package's files are there.
UNPACKED = frozenset({"unpacked", "half-configured", "triggers-awaited", "triggers-pending", "installed"})


@dataclass(frozen=True)
class Package:
    """One package: `needs` are names of what it depends on, the first alternative of each.

    `unpacked` says whether its files are there, in dpkg's status file.
    """

    name: str
    version: str
    architecture: str
    essential: bool
    provides: tuple[str, ...]
    needs: tuple[str, ...]
    filename: str
    unpacked: bool


def read_packages(path: Path) -> dict[str, Package]:
    """Every package of the file, by name."""
    found = {}
    for stanza in re.split(r"\n\n+", path.read_text()):
        fields = dict(re.findall(r"^([\w-]+): *(.*)$", stanza, re.MULTILINE))
        if "Package" in fields:
            found[fields["Package"]] = Package(
                fields["Package"],
                fields.get("Version", ""),
                fields["Architecture"],
                fields.get("Essential") == "yes",
                relation_names(fields.get("Provides", "")),
                relation_names(fields.get("Pre-Depends", "")) + relation_names(fields.get("Depends", "")),
                fields.get("Filename", ""),
                fields.get("Status", "").rpartition(" ")[2] in UNPACKED,
            )
    return found


def relation_names(field: str) -> tuple[str, ...]:
    """The names in a field of relations, the first of alternatives, without versions and architectures."""
    return tuple(re.split(r"[ (:|]", item.strip())[0] for item in field.split(",") if item.strip())


def essential_packages(packages: Mapping[str, Package]) -> list[str]:
    """The essential packages and all that they need: a maintainer script may use these without asking, and dpkg
    must find them unpacked. base-passwd comes first, which makes the users that others' files belong to."""
    providers = {provided: package.name for package in packages.values() for provided in package.provides}
    todo = [package.name for package in packages.values() if package.essential]
    found: set[str] = set()
    while todo:
        name = todo.pop()
        name = name if name in packages else providers.get(name, "")
        if name and name not in found:
            found.add(name)
            todo += packages[name].needs
    return sorted(found, key=lambda name: (name != "base-passwd", name))
