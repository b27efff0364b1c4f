"""A parsed seed: the files that cloud-init reads, and warnings about keys without effect."""

import gzip
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from osbuild.agent.seed import unsafe_parts, user_data
from osbuild.agent.system import System
from osbuild.shared.quoting import quoted
from osbuild.shared.seed import document
from osbuild.shared.seed.effective_keys import find_without_effect
from osbuild.shared.seed.files import SeedFiles
from osbuild.shared.seed.limits import SeedBudget
from osbuild.shared.seed.refused import SeedRefused

INSTANCE = "nocloud"  # the instance-id that cloud-init uses if meta-data has none
RENDERED = "/var/lib/cloud/instance/cloud-config.txt"
LONGEST = 200  # bytes of an instance-id, which becomes the name of a folder
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class AcceptedSeed:
    """A seed with the `files` for cloud-init: meta-data has `dsmode: local`, and byte order marks are removed.

    network-config is not among them, because cloud-init would stop if it could not parse it.
    """

    seed: SeedFiles
    source: str
    files: dict[str, bytes] = field(repr=False)
    warnings: tuple[str, ...] = ()


def accept_seed(seed: SeedFiles, source: str) -> AcceptedSeed:
    """Parse every file of a seed. Raises `SeedRefused` with file, line and column."""
    files = {name: data for name, data in seed.files.items() if name != "network-config"}
    budget = SeedBudget()
    metadata, warnings = parse_meta_data(files["meta-data"], budget)
    files["meta-data"] = document.write_json_bytes(metadata)
    contents = {"user-data": user_data.inspect_user_data(files["user-data"], "user-data", budget)}
    if "vendor-data" in files:
        try:
            contents["vendor-data"] = user_data.inspect_user_data(files["vendor-data"], "vendor-data", budget)
        except SeedRefused as problem:  # vendor-data is optional
            del files["vendor-data"]
            warnings.append(f"vendor-data is not used: {problem}")
    for name in ("user-data", "vendor-data"):
        if content := contents.get(name):
            # The files are compressed. cloud-init searches plain text for settings that need a network, and stops if it
            # finds a list where it expects a mapping.
            plain = user_data.decompress(files[name], name).removeprefix(BOM)
            if content.has_unsafe_parts and not content.handlers:
                plain = unsafe_parts.remove_unsafe_parts(plain)
            ignored = find_without_effect(content.config)
            if content.single and (ignored or content.odd_key):
                # Some of these keys, and keys that are not text, make cloud-init fail before it creates the users.
                effective = {key: value for key, value in content.config.items() if key not in ignored}
                plain = b"#cloud-config\n" + document.write_yaml(effective).encode()
            files[name] = gzip.compress(plain, mtime=0) if plain.strip() else b""
            warnings += [*content.warnings, *key_warnings(name, content.config)]
    return AcceptedSeed(seed, source, files, tuple(warnings))


def parse_meta_data(data: bytes, budget: SeedBudget) -> tuple[dict[str, Any], list[str]]:
    """Parse meta-data. Returns it with `dsmode: local`, and warnings. Raises `SeedRefused`."""
    # With `dsmode: local`, cloud-init runs once, before the network is up.
    budget.take_text(len(data), "meta-data")
    parsed = document.load_yaml(document.decode_text(data, "meta-data"), "meta-data")
    budget.take_values(parsed.size, "meta-data")
    metadata, warnings = parsed.mapping("meta-data"), list(parsed.repeated)
    if "seedfrom" in metadata:
        del metadata["seedfrom"]
        warnings.append("meta-data: `seedfrom` has no effect: the network is not available when the seed is applied")
    if "network-interfaces" in metadata:
        warnings.append("meta-data: `network-interfaces` has no effect: write it into network-config")
    instance = metadata.get("instance-id")
    if isinstance(instance, dict | list | bytes | set):
        raise SeedRefused("meta-data: instance-id is not a text")
    if len(str(instance or "").encode(errors="replace")) > LONGEST:
        raise SeedRefused(f"meta-data: instance-id has more than {LONGEST} bytes")
    if instance in (".", ".."):
        raise SeedRefused(f"meta-data: instance-id is {instance!r}, which cannot be the name of a folder")
    if not str(instance or "").isprintable():
        raise SeedRefused("meta-data: instance-id contains a character that is not allowed in a name")
    for key in ("local-hostname", "hostname"):
        name = metadata.pop(key, None)
        if isinstance(name, str | int | float) and str(name).isprintable():
            metadata[key] = str(name)  # a number makes cloud-init fail
        elif name is not None:
            warnings.append(f"meta-data: `{key}` has no effect: it is not a name")
    return {**metadata, "instance-id": str(instance or INSTANCE), "dsmode": "local"}, warnings


def key_warnings(name: str, config: dict[str, Any]) -> list[str]:
    """A warning for each key that has no effect."""
    return [f"{name}: {quoted(key)} has no effect: {reason}" for key, reason in find_without_effect(config).items()]


def template_warnings(system: System, seed: SeedFiles) -> list[str]:
    """The warnings for user-data that is a template. They are known only after cloud-init has rendered it."""
    content = user_data.inspect_user_data(seed.files["user-data"], "user-data")
    if not content.template:
        return []
    with suppress(SeedRefused):
        return key_warnings("user-data", document.load_mapping(system.text(RENDERED), "user-data"))
    return []
