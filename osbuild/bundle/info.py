"""Reading a bundle: what it says it is, who signed it, and what the build in it was."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osbuild.bundle.payload import find_payload_damage
from osbuild.bundle.signing import trust_arguments
from osbuild.host.cache import Cache
from osbuild.host.run import CommandError
from osbuild.sandbox.bundle_tools import bundle_tools
from osbuild.sandbox.tools_tree import ToolsTree
from osbuild.shared.errors import Error
from osbuild.shared.files import read_start
from osbuild.shared.json_text import parse_json

MAGIC = b"hsqs"  # squashfs, with which a bundle begins
WHOLE = "is the file whole? compare its size and sha256 with what `edge-osbuild bundle --json` said"
INSIDE = "/run/bundle.raucb"  # where the sandbox has it; not every place of the host can be seen at its own name there


@dataclass(frozen=True)
class BundleInfo:
    """A bundle. `images` is image -> bytes; `meta` what the build wrote for devices; `problem` why it isn't trusted.

    `problem` is None where the signature was checked against a keyring and found good.
    """

    path: Path
    size: int
    compatible: str
    version: str
    build: str
    images: dict[str, int]
    meta: dict[str, str]
    manifest_hash: str
    signer: str | None
    problem: str | None


def is_bundle(path: Path) -> bool:
    """Whether a file begins like a bundle."""
    try:
        return read_start(path, len(MAGIC)) == MAGIC
    except OSError:
        return False


def read_bundle(path: Path, cache: Cache, keyring: bytes | None = None) -> BundleInfo:
    """Everything about the bundle at `path`; with `keyring`, whether a device that has it would take the signature.

    Raises `Error` where it is no bundle, or damaged.
    """
    if not is_bundle(path):
        message = "this is no bundle" if path.is_file() else "there is no such file"
        raise Error(message, where=str(path), hint="`edge-osbuild bundle` makes one: F.raucb")
    tools, problem = bundle_tools(cache), "not checked: no keyring was given"
    with cache.scratch("bundles") as scratch:
        plain = _info(tools, path, ["--no-verify"], [])
        signer = None
        if keyring is not None:
            try:
                checked = _info(tools, path, [], [scratch], trust_arguments(scratch, keyring))
                signer, problem = checked.get("signer"), ""
            except Error as error:
                problem = error.message
    update = plain.get("update", {})
    if damage := find_payload_damage(path, plain.get("bundle", {})):
        problem = damage
    return BundleInfo(
        path,
        path.stat().st_size,
        str(update.get("compatible", "")),
        str(update.get("version", "")),
        str(update.get("build", "")),
        {str(image["slot-class"]): int(image["size"]) for image in plain.get("images", [])},
        dict(plain.get("meta", {}).get("edge", {})),
        str(plain.get("manifest-hash", "")),
        signer,
        problem or None,
    )


def _info(
    tools: ToolsTree, path: Path, arguments: Sequence[str], binds: Sequence[Path], checks: Sequence[Any] = ()
) -> dict[str, Any]:
    # Two outputs: the signer is only in the one for people.
    hidden = [(path, INSIDE)]
    try:
        text = tools.run_command(
            ["rauc", *checks, "info", *arguments, "--output-format=json-2", INSIDE], binds, read_only_binds=hidden
        )
        found: dict[str, Any] = parse_json(text)
        if not arguments:
            shown = tools.run_command(["rauc", *checks, "info", INSIDE], binds, read_only_binds=hidden)
            names = re.findall(r"^ *\d+ Subject: (.*)$", shown, re.MULTILINE)
            found["signer"] = names[0] if names else None
    except ValueError as error:
        raise Error(f"RAUC describes it in no JSON: {error}", where=str(path), hint=WHOLE) from error
    except CommandError as error:
        reasons = [line for line in error.output.splitlines() if line.strip() and not line.startswith("rauc-")]
        reason = re.sub(r"^.*\*\*: [\d:.]+: ", "", reasons[-1]) if reasons else "RAUC does not say why"
        raise Error(f"RAUC refuses it: {reason}", where=str(path), hint=WHOLE) from None
    return found


def read_bundle_file(path: Path, name: str, cache: Cache) -> bytes:
    """One file of a bundle; nothing about its signature is checked. Raises `Error`."""
    with cache.scratch("bundles") as scratch:
        try:
            bundle_tools(cache).run_command(
                ["unsquashfs", "-quiet", "-no-progress", "-dest", scratch / "out", INSIDE, name], [scratch],
                read_only_binds=[(path, INSIDE)],
            )  # fmt: skip
            found = scratch / "out" / name
            if found.is_symlink() or not found.is_file():  # a link would lead to a file of this host
                raise FileNotFoundError(name)
            return found.read_bytes()
        except (CommandError, OSError) as error:
            hint = "is the file whole, and was it made by `edge-osbuild bundle`?"
            raise Error(f"there is no {name} in it", where=str(path), hint=hint) from error
