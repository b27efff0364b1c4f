"""Reads a bundle: its manifest, its signer, and the metadata of its build."""

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
from osbuild.shared.files import LARGEST, read_file, read_start
from osbuild.shared.json_text import parse_json

MAGIC = b"hsqs"  # squashfs, the beginning of a bundle
COMPARE_HINT = "the file may be incomplete: compare size and sha256 with the output of `edge-osbuild bundle --json`"
# A packed file may be one that would fill every disk.
LIMITED = f'ulimit -f {LARGEST // 512}; exec "$@"'
INSIDE = "/run/bundle.raucb"  # its path in the sandbox, in which not every path of the host is possible


@dataclass(frozen=True)
class BundleInfo:
    """A bundle. `images` maps images to sizes in bytes; `meta` is the section `meta.edge` of the bundle manifest.

    `problem` says why the bundle is not trusted; None if its signature is valid for the given keyring.
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
    """Read the bundle at `path`. With `keyring`, check the signature like a device with this keyring.

    Raises `Error` if it is not a bundle, or RAUC can't read it.
    """
    if not is_bundle(path):
        message = "this is not a bundle" if path.is_file() else "this file does not exist"
        raise Error(message, where=str(path), hint="name a .raucb file made by `edge-osbuild bundle`")
    tools, problem = bundle_tools(cache), "not checked: no keyring was given"
    with cache.scratch("bundles") as scratch:
        info = _info(tools, path, ["--no-verify"], [])
        signer = None
        if keyring is not None:
            try:
                verified = _info(tools, path, [], [scratch], trust_arguments(scratch, keyring))
                signer, problem = verified.get("signer"), ""
            except Error as error:
                problem = error.message
    update = info.get("update", {})
    if damage := find_payload_damage(path, info.get("bundle", {})):
        problem = damage
    return BundleInfo(
        path,
        path.stat().st_size,
        str(update.get("compatible", "")),
        str(update.get("version", "")),
        str(update.get("build", "")),
        {str(image["slot-class"]): int(image["size"]) for image in info.get("images", [])},
        dict(info.get("meta", {}).get("edge", {})),
        str(info.get("manifest-hash", "")),
        signer,
        problem or None,
    )


def _info(
    tools: ToolsTree, path: Path, arguments: Sequence[str], binds: Sequence[Path], checks: Sequence[Any] = ()
) -> dict[str, Any]:
    # Two commands, because only the text output contains the signer.
    bundle_bind = [(path, INSIDE)]
    try:
        text = tools.run_command(
            ["rauc", *checks, "info", *arguments, "--output-format=json-2", INSIDE], binds, read_only_binds=bundle_bind
        )
        info: dict[str, Any] = parse_json(text)
        if not arguments:
            listing = tools.run_command(["rauc", *checks, "info", INSIDE], binds, read_only_binds=bundle_bind)
            info["signer"] = find_signer(listing)
    except ValueError as error:
        raise Error(
            f"RAUC's description of the bundle is not JSON: {error}", where=str(path), hint=COMPARE_HINT
        ) from error
    except CommandError as error:
        reasons = [line for line in error.output.splitlines() if line.strip() and not line.startswith("rauc-")]
        reason = re.sub(r"^.*\*\*: [\d:.]+: ", "", reasons[-1]) if reasons else "RAUC prints no reason"
        raise Error(f"RAUC refuses the bundle: {reason}", where=str(path), hint=COMPARE_HINT) from None
    return info


def find_signer(shown: str) -> str | None:
    """Return the subject of the first certificate in the output of `rauc info`; None if there is none.

    Only the certificate chain at the end of the output counts, because texts of the manifest may look the same.
    """
    names = re.findall(r"^ *\d+ Subject: (.*)$", shown.rpartition("Certificate Chain:")[2], re.MULTILINE)
    return names[0] if names else None


def read_bundle_file(path: Path, name: str, cache: Cache) -> bytes:
    """Return one file of a bundle, of at most `LARGEST` bytes, without checking the signature. Raises `Error`."""
    unpack = ["unsquashfs", "-quiet", "-no-progress", "-no-xattrs"]
    with cache.scratch("bundles") as scratch:
        try:
            bundle_tools(cache).run_command(
                ["sh", "-c", LIMITED, "sh", *unpack, "-dest", scratch / "out", INSIDE, name], [scratch],
                read_only_binds=[(path, INSIDE)],
            )  # fmt: skip
            extracted = scratch / "out" / name
            if extracted.is_symlink() or not extracted.is_file():  # a link would point to a file of this host
                raise FileNotFoundError(name)
            return read_file(extracted)
        except (CommandError, OSError) as error:
            hint = "check that the file is complete and was made by `edge-osbuild bundle`"
            raise Error(f"the bundle contains no {name} that can be read", where=str(path), hint=hint) from error
