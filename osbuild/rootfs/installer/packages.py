"""Reads Debian's control data (deb-control(5)): a repository's index or dpkg's status file."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# States of dpkg(1) in which a package's files are installed.
UNPACKED = frozenset({"unpacked", "half-configured", "triggers-awaited", "triggers-pending", "installed"})


@dataclass(frozen=True)
class Package:
    """One package. `needs` are the names of its dependencies, the first alternative of each.

    `unpacked` says whether its files are installed, in dpkg's status file.
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
    """Read every package of the file, by name."""
    packages = {}
    for stanza in re.split(r"\n\n+", path.read_text()):
        fields = dict(re.findall(r"^([\w-]+): *(.*)$", stanza, re.MULTILINE))
        if "Package" in fields:
            packages[fields["Package"]] = Package(
                fields["Package"],
                fields.get("Version", ""),
                fields["Architecture"],
                fields.get("Essential") == "yes",
                relation_names(fields.get("Provides", "")),
                relation_names(fields.get("Pre-Depends", "")) + relation_names(fields.get("Depends", "")),
                fields.get("Filename", ""),
                fields.get("Status", "").rpartition(" ")[2] in UNPACKED,
            )
    return packages


def relation_names(field: str) -> tuple[str, ...]:
    """Return the names in a relation field, the first of alternatives, without versions and architectures."""
    return tuple(re.split(r"[ (:|]", item.strip())[0] for item in field.split(",") if item.strip())


def essential_packages(packages: Mapping[str, Package]) -> list[str]:
    """Return the names of the essential packages and their dependencies, base-passwd first.

    Maintainer scripts may use them without a dependency, so dpkg must find them unpacked.
    """
    providers = {provided: package.name for package in packages.values() for provided in package.provides}
    todo = [package.name for package in packages.values() if package.essential]
    names: set[str] = set()
    while todo:
        name = todo.pop()
        name = name if name in packages else providers.get(name, "")
        if name and name not in names:
            names.add(name)
            todo += packages[name].needs
    # base-passwd creates the users that own the files of other packages.
    return sorted(names, key=lambda name: (name != "base-passwd", name))
