"""A seed that was read and parsed: what cloud-init is shown of it, and what has no effect."""

import gzip
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from osbuild.agent.seed import leftout, user_data
from osbuild.agent.system import System
from osbuild.shared.quoting import quoted
from osbuild.shared.seed import document
from osbuild.shared.seed.effective_keys import find_without_effect
from osbuild.shared.seed.files import SeedFiles
from osbuild.shared.seed.refused import SeedRefused

INSTANCE = "nocloud"  # cloud-init's own instance-id for meta-data without one
RENDERED = "/var/lib/cloud/instance/cloud-config.txt"
LONGEST = 200  # bytes of an instance-id, which is the name of a folder
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class AcceptedSeed:
    """`files` are what cloud-init reads: meta-data with `dsmode: local`, text without a byte order mark.

    network-config is not among them: cloud-init parses it too, and would end where it can't.
    """

    seed: SeedFiles
    source: str
    files: dict[str, bytes] = field(repr=False)
    warnings: tuple[str, ...] = ()


def accept_seed(seed: SeedFiles, source: str) -> AcceptedSeed:
    """Parse every file of a seed. Raises `Refused` with file, line and column."""
    files = {name: data for name, data in seed.files.items() if name != "network-config"}
    metadata, warnings = parse_meta_data(files["meta-data"])
    files["meta-data"] = document.write_json_bytes(metadata)
    if "vendor-data" in files:
        try:
            user_data.inspect_user_data(files["vendor-data"], "vendor-data")
        except SeedRefused as problem:  # nobody needs it
            del files["vendor-data"]
            warnings.append(f"vendor-data is not used: {problem}")
    for name in ("user-data", "vendor-data"):
        if name in files:
            content = user_data.inspect_user_data(files[name], name)
            # Compressed: before it applies anything, cloud-init looks into plain text for what needs a network, and a
            # list where it expects a mapping ends it there.
            plain = user_data.decompress(files[name], name).removeprefix(BOM)
            if content.left_out and not content.handlers:
                plain = leftout.without(plain)
            ignored = find_without_effect(content.config)
            if content.single and (ignored or content.odd_key):
                # cloud-init fails, before it gets to the users, at some of them, and at keys that are no texts.
                kept = {key: value for key, value in content.config.items() if key not in ignored}
                plain = b"#cloud-config\n" + document.write_yaml(kept).encode()
            files[name] = gzip.compress(plain, mtime=0) if plain.strip() else b""
            warnings += [*content.warnings, *key_warnings(name, content.config)]
    return AcceptedSeed(seed, source, files, tuple(warnings))


def parse_meta_data(data: bytes) -> tuple[dict[str, Any], list[str]]:
    """Parsed meta-data with `dsmode: local`: one run of cloud-init, before the network. And warnings."""
    parsed = document.load_yaml(document.decode_text(data, "meta-data"), "meta-data")
    found, warnings = parsed.mapping("meta-data"), list(parsed.repeated)
    if "seedfrom" in found:
        del found["seedfrom"]
        warnings.append("meta-data: `seedfrom` has no effect: a node is configured before it has a network")
    if "network-interfaces" in found:
        warnings.append("meta-data: `network-interfaces` has no effect: write it into network-config")
    instance = found.get("instance-id")
    if isinstance(instance, dict | list | bytes | set):
        raise SeedRefused("meta-data: instance-id is not a text")
    if len(str(instance or "").encode(errors="replace")) > LONGEST:
        raise SeedRefused(f"meta-data: instance-id has more than {LONGEST} bytes")
    if not str(instance or "").isprintable():
        raise SeedRefused("meta-data: instance-id has characters that no name can have")
    for key in ("local-hostname", "hostname"):
        name = found.pop(key, None)
        if isinstance(name, str | int | float) and str(name).isprintable():
            found[key] = str(name)  # cloud-init fails at a number
        elif name is not None:
            warnings.append(f"meta-data: `{key}` has no effect: it is not a name")
    return {**found, "instance-id": str(instance or INSTANCE), "dsmode": "local"}, warnings


def key_warnings(name: str, config: dict[str, Any]) -> list[str]:
    """A warning for each key that has no effect."""
    return [f"{name}: {quoted(key)} has no effect: {why}" for key, why in find_without_effect(config).items()]


def template_warnings(system: System, seed: SeedFiles) -> list[str]:
    """The same warnings for a template, which only cloud-init could render: for after its run."""
    content = user_data.inspect_user_data(seed.files["user-data"], "user-data")
    if not content.template:
        return []
    with suppress(SeedRefused):
        return key_warnings("user-data", document.load_mapping(system.text(RENDERED), "user-data"))
    return []
