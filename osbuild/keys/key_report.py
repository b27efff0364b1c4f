"""The roots and signers of a key folder with their expiry dates, and warnings."""

import stat
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from osbuild.keys.certificate import Revoked, current_time, fingerprint
from osbuild.keys.key_files import OTHERS
from osbuild.keys.key_folder import ROOT_FOLDER, KeyFolder, RootEntry, SignerEntry

SOON = {"root": 365, "signer": 30}  # days before expiry at which a warning is given


@dataclass(frozen=True)
class KeyStatus:
    """One root or signer. `state` is `signs`, `trusted`, `valid`, `revoked`, `removed`, `expired` or `not yet valid`.

    `mode` is that of its private key's file; None without a file.
    """

    name: str
    kind: str
    root: str | None
    state: str
    begins: datetime
    ends: datetime
    days: int
    key: str
    fingerprint: str
    mode: int | None = None
    revoked: Revoked | None = None


@dataclass(frozen=True)
class KeyReport:
    """The report on a key folder; `warnings` are sentences."""

    folder: Path
    owner: str
    development: bool
    lines: tuple[KeyStatus, ...]
    warnings: tuple[str, ...]


def report_keys(keys: KeyFolder, *, root_folder: Path | None = None, at: datetime | None = None) -> KeyReport:
    """Report on `keys` at the time `at` (now if None). `root_folder` is searched for the roots' private keys."""
    at = at or current_time()
    root_keys = root_folder or keys.folder / ROOT_FOLDER
    lines = [_status(keys, root, "removed" if root.removed else "trusted", root_keys, at) for root in keys.roots]
    revoked, removed = keys.revoked(), {root.name for root in keys.roots if root.removed}
    for signer in keys.signers:
        revocation = revoked.get(signer.name)
        state = "revoked" if revocation else "removed" if signer.root in removed else "valid"
        state = "signs" if state == "valid" and signer.name == keys.signer else state
        lines.append(replace(_status(keys, signer, state, keys.folder, at), revoked=revocation))
    return KeyReport(keys.folder, keys.owner, keys.development, tuple(lines), tuple(_warnings(keys, lines)))


def _status(keys: KeyFolder, entry: RootEntry | SignerEntry, state: str, folder: Path, at: datetime) -> KeyStatus:
    """The status of one key, whose file is looked for in `folder`; `at` decides on `expired` and `not yet valid`."""
    certificate = keys.certificate(entry.name)
    ends = certificate.not_valid_after_utc
    path = folder / f"{entry.name}.key"
    if state not in ("revoked", "removed"):
        state = "expired" if ends <= at else "not yet valid" if certificate.not_valid_before_utc > at else state
    return KeyStatus(
        name=entry.name,
        kind="signer" if isinstance(entry, SignerEntry) else "root",
        root=entry.root if isinstance(entry, SignerEntry) else None,
        state=state,
        begins=certificate.not_valid_before_utc,
        ends=ends,
        days=(ends - at).days,
        key=entry.token or (str(path) if path.is_file() else "not here"),
        fingerprint=fingerprint(certificate),
        mode=stat.S_IMODE(path.stat().st_mode) if not entry.token and path.is_file() else None,
    )


def _warnings(keys: KeyFolder, lines: list[KeyStatus]) -> list[str]:
    warnings = []
    rotate_command = f"`edge-osbuild keys rotate {keys.folder}`"
    for line in lines:
        if line.mode is not None and line.mode & OTHERS:
            warnings.append(
                f"other users may use the private key of {line.name}: its mode is {line.mode:04o}: "
                f"chmod 600 {line.key}; if someone may have read it, replace it with {rotate_command}"
            )
        end = f"{line.ends:%Y-%m-%d}"
        if line.state == "not yet valid":
            begin = f"{line.begins:%Y-%m-%d %H:%M}"
            warnings.append(f"{line.name} is not valid before {begin} UTC: check this host's clock")
        elif line.name == keys.signer and line.state != "signs":
            warnings.append(f"the current signer {line.name} is {line.state}: {rotate_command}")
        elif line.state == "signs" and line.days < SOON["signer"]:
            warnings.append(f"{line.name} expires on {end}, in {line.days} days: {rotate_command}")
        elif line.state == "expired" and line.kind == "root":
            warnings.append(
                f"{line.name} expired on {end}: devices refuse bundles that were signed since then under this root"
            )
        elif line.state == "trusted" and line.days < SOON["root"]:
            warnings.append(
                f"{line.name} expires on {end}, in {line.days} days: update all devices to a new root before"
            )
    for line in lines:
        if (
            line.kind == "root"
            and not keys.development
            and line.key == str(keys.folder / ROOT_FOLDER / f"{line.name}.key")
        ):
            warnings.append(
                f"the private key of {line.name} is on this machine: move {keys.folder / ROOT_FOLDER} offline"
            )
    if keys.development:
        warnings.append("these are development keys: not for devices in the field")
    return warnings
