"""Checks an uploaded bundle as a device does: its signature, and that its contents are the signed ones."""

import configparser
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from osbuild.bundle.payload import LENGTH, find_payload_damage
from osbuild.fleet.refusal import Refused
from osbuild.host.run import CommandError, run_command
from osbuild.shared.openssl_trust import trust_options
from osbuild.shared.quoting import printable, quoted

LARGEST_SIGNATURE = 2**20  # bytes
MAGIC = b"hsqs"  # squashfs
LONGEST_VALUES = {"name": 128, "version": 128, "compatible": 256, "build": 256}
"""characters, as far as the database stores the value"""
LONGEST_REASON = 200  # characters
VERITY = ("format", "verity-hash", "verity-salt", "verity-size")


@dataclass(frozen=True)
class CheckedBundle:
    """What the signed manifest of a bundle says. `meta` is its section `meta.edge`."""

    compatible: str
    version: str
    build: str
    meta: Mapping[str, str]


def check_bundle(path: Path, keyring: Path) -> CheckedBundle:
    """Return what a bundle says, if a certificate in `keyring` (PEM) has signed it. Raises `Refused`."""
    with tempfile.TemporaryDirectory(prefix="edge-fleet-") as folder:
        signature = Path(folder) / "signature"
        signature.write_bytes(read_signature(path))
        # The signed manifest is inside of the signature (RAUC's manual, "verity Format"). A device checks a certificate
        # at the time of signing, so that its end does not matter here either.
        verify: list[str | Path] = ["openssl", "cms", "-verify", "-inform", "DER", "-in", signature]
        try:
            text = run_command([*verify, *trust_options(keyring), "-purpose", "any", "-no_check_time", "-crl_check"])
        except CommandError as error:
            raise Refused(422, "bad-signature", explain_signature(error.output)) from error
    manifest = parse_manifest(text)
    metadata = {name: manifest["bundle"].get(name, "") for name in VERITY}
    try:
        damage = find_payload_damage(path, metadata)
    except ValueError:
        damage = "the manifest of the bundle does not describe a hash tree"
    if damage:
        raise Refused(422, "damaged-bundle", damage)
    update = manifest["update"]
    checked = CheckedBundle(
        update.get("compatible", ""), update.get("version", ""), update.get("build", ""), manifest.get("meta.edge", {})
    )
    if not checked.compatible or not checked.version:
        raise Refused(422, "incomplete-bundle", "the manifest of the bundle has no `compatible` or no `version`")
    check_values(checked)
    return checked


def check_values(checked: CheckedBundle) -> None:
    """Raise `Refused` if a value that people and devices see is too long, or not printable."""
    values = {
        "name": checked.meta.get("name") or checked.compatible, "version": checked.version,
        "compatible": checked.compatible, "build": checked.build,
    }  # fmt: skip
    for name, value in values.items():
        most = LONGEST_VALUES[name]
        if len(value) > most or not value.isprintable() or "\\" in value:
            message = (
                f"`{name}` in the manifest of the bundle must have at most {most} printable characters, "
                f"and no backslash: {quoted(value)}"
            )
            raise Refused(422, "bad-manifest", message)


def explain_signature(output: str) -> str:
    """Return for people why OpenSSL does not accept a signature."""
    cause = re.search(r"[Vv]erify error: ?(.+)", output)
    if cause is None:
        return "the signature of the bundle is damaged, or not that of a bundle: make the bundle again"
    return (
        f"no certificate of the server's keyring has signed this bundle ({cause[1].strip()}): sign it with one of the "
        "keys of the server (`edge-osbuild serve --keys`), or start the server with the keys of the bundle"
    )


def read_signature(path: Path) -> bytes:
    """Return the signature at the end of a bundle (CMS, RFC 5652). Raises `Refused`."""
    with path.open("rb") as file:
        begin = file.read(len(MAGIC))
        size = file.seek(0, os.SEEK_END)
        if begin != MAGIC or size < LENGTH:
            raise Refused(422, "not-a-bundle", "this is not a bundle: upload a .raucb file of `edge-osbuild bundle`")
        file.seek(-LENGTH, os.SEEK_END)
        length = int.from_bytes(file.read(LENGTH), "big")
        if not 0 < length <= min(LARGEST_SIGNATURE, size - LENGTH):
            raise Refused(422, "damaged-bundle", "the bundle is not complete: its signature is missing")
        file.seek(-LENGTH - length, os.SEEK_END)
        return file.read(length)


def parse_manifest(text: str) -> Mapping[str, Mapping[str, str]]:
    """Return the sections of a manifest (RAUC's manual, "Manifest"). Raises `Refused`."""
    # RAUC reads it with GLib, for which the names of keys are case-sensitive, and no section has values for the others.
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",), comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    try:
        parser.read_string(text)
        if parser.defaults():
            raise configparser.Error(f"it has a section [{parser.default_section}]")
        sections = {name: dict(parser[name]) for name in parser.sections()}
    except configparser.Error as error:
        reason = printable(str(error), LONGEST_REASON)
        raise Refused(422, "bad-manifest", f"the manifest of the bundle can't be read: {reason}") from error
    missing = [name for name in ("update", "bundle") if name not in sections]
    if missing or sections["bundle"].get("format") != "verity":
        raise Refused(422, "bad-manifest", "the bundle is not of the format verity")
    return sections
