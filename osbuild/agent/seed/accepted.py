"""A seed that was read and parsed: what cloud-init is shown of it, and what has no effect."""

import gzip
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from osbuild.agent.seed import document, userdata
from osbuild.agent.seed.effect import without_effect
from osbuild.agent.seed.files import Seed
from osbuild.agent.seed.refused import Refused
from osbuild.agent.system import System

INSTANCE = "nocloud"  # cloud-init's own instance-id for meta-data without one
RENDERED = "/var/lib/cloud/instance/cloud-config.txt"
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Accepted:
    """`files` are what cloud-init reads: meta-data with `dsmode: local`, text without a byte order mark."""

    seed: Seed
    source: str
    files: dict[str, bytes] = field(repr=False)
    warnings: tuple[str, ...] = ()


def accept(seed: Seed, source: str) -> Accepted:
    """Parse every file of a seed. Raises `Refused` with file, line and column."""
    files = dict(seed.files)
    metadata, warnings = meta_data(files["meta-data"])
    files["meta-data"] = document.dump(metadata)
    for name in ("user-data", "vendor-data"):
        if name in files:
            content = userdata.inspect(files[name], name)
            # Compressed: before it applies anything, cloud-init looks into plain text for what needs a network, and a
            # list where it expects a mapping ends it there.
            plain = userdata.decompress(files[name], name).removeprefix(BOM)
            if content.single and (ignored := without_effect(content.config)):
                # Some of them, with values that it does not expect, end cloud-init before it gets to the users.
                kept = {key: value for key, value in content.config.items() if key not in ignored}
                plain = b"#cloud-config\n" + document.write(kept).encode()
            files[name] = gzip.compress(plain, mtime=0) if plain.strip() else b""
            warnings += [*content.warnings, *keys(name, content.config)]
    if "network-config" in files:
        files["network-config"] = files["network-config"].removeprefix(BOM)
    return Accepted(seed, source, files, tuple(warnings))


def meta_data(data: bytes) -> tuple[dict[str, Any], list[str]]:
    """Parsed meta-data with `dsmode: local`: one run of cloud-init, before the network. And warnings."""
    found = document.mapping(document.decode(data, "meta-data"), "meta-data")
    warnings = []
    if "seedfrom" in found:
        del found["seedfrom"]
        warnings.append("meta-data: `seedfrom` has no effect: a node is configured before it has a network")
    instance = found.get("instance-id")
    if isinstance(instance, dict | list):
        raise Refused("meta-data: instance-id is not a text")
    return {**found, "instance-id": str(instance or INSTANCE), "dsmode": "local"}, warnings


def keys(name: str, config: dict[str, Any]) -> list[str]:
    """A warning for each key that has no effect."""
    return [f"{name}: `{key}` has no effect: {why}" for key, why in without_effect(config).items()]


def rendered_keys(system: System, seed: Seed) -> list[str]:
    """The same warnings for a template, which only cloud-init could render: for after its run."""
    content = userdata.inspect(seed.files["user-data"], "user-data")
    if not content.template:
        return []
    with suppress(Refused):
        return keys("user-data", document.mapping(system.text(RENDERED), "user-data"))
    return []
