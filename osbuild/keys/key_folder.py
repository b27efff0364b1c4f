"""A key folder: its roots and signers, and where their private keys are.

keys.json            names and references, no secrets
root-1.crt           a root, which devices trust
root-1.crl           its revocation list
signer-1.crt         a certificate for signing bundles
signer-1.key         its private key, unless a PKCS#11 token holds it
root/root-1.key      the root's private key: move this folder to a safe place
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from osbuild.keys.certificate import (
    Revoked,
    certified_name,
    current_time,
    is_development,
    read_revocations,
    to_pem,
    usage_problem,
)  # fmt: skip
from osbuild.keys.key_files import PUBLIC, read_key_file, write_key_file
from osbuild.shared.errors import Error
from osbuild.shared.json_text import parse_json

FORMAT = 1
STATE, ROOT_FOLDER = "keys.json", "root"
REMOVED = "dropped"  # the key in keys.json for `RootEntry.removed`
RESTORE = "restore it from your backup"


@dataclass(frozen=True)
class RootEntry:
    """`token` is the PKCS#11 URI of its key, None for a file. A removed root is no longer in the keyring."""

    name: str
    token: str | None = None
    removed: bool = False


@dataclass(frozen=True)
class SignerEntry:
    """A certificate that `root` signed; `token` is the PKCS#11 URI of its key, None for a file."""

    name: str
    root: str
    token: str | None = None


@dataclass(frozen=True)
class KeyFolder:
    """The contents of the key folder `folder`. `signer` is the name of the signer that signs bundles now."""

    folder: Path
    owner: str
    development: bool
    roots: tuple[RootEntry, ...]
    signers: tuple[SignerEntry, ...]
    signer: str

    def find_root(self, name: str) -> RootEntry:
        """Return the root called `name`. Raises `Error`."""
        for root in self.roots:
            if root.name == name:
                return root
        raise self._unknown(name, [root.name for root in self.roots])

    def find_signer(self, name: str | None = None) -> SignerEntry:
        """Return the signer called `name`, or the current signer. Raises `Error`."""
        for signer in self.signers:
            if signer.name == (name or self.signer):
                return signer
        raise self._unknown(name or self.signer, [signer.name for signer in self.signers])

    def _unknown(self, name: str, names: list[str]) -> Error:
        return Error(
            f"this key folder has no `{name}`", where=str(self.folder), hint=f"name one of: {', '.join(names)}"
        )

    def certificate(self, name: str) -> x509.Certificate:
        """Return the certificate of a root or signer, with its signature checked.

        Raises `Error` if its file is missing or damaged.
        """
        path, what = self.folder / f"{name}.crt", f"the certificate of {name}"
        data = read_key_file(path, "the certificate", RESTORE)
        is_root = name in [root.name for root in self.roots]
        issuer = None if is_root else self.find_root(self.find_signer(name).root).name
        try:
            parsed = x509.load_pem_x509_certificate(data)
            # cryptography parses these fields only when they are read, and they may be damaged too.
            _ = parsed.public_key(), parsed.subject, parsed.issuer, parsed.not_valid_after_utc, list(parsed.extensions)
            if certified_name(parsed) != name:
                raise ValueError(f"it is the certificate of {certified_name(parsed)}")
            # Damage may leave a certificate that is well formed. No device would accept it.
            parsed.verify_directly_issued_by(self.certificate(issuer) if issuer else parsed)
            if problem := usage_problem(parsed, authority=is_root):
                raise Error(f"this is not {what}: {problem}", where=str(path), hint=RESTORE)
            return parsed
        except InvalidSignature as error:
            message = f"{what} is damaged, or belongs to other keys: its signature is wrong"
            raise Error(message, where=str(path), hint=RESTORE) from error
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise Error(f"this is not {what}", where=str(path), hint=RESTORE) from error

    def revocations(self, root: str) -> x509.CertificateRevocationList:
        """Return a root's revocation list, with its signature checked. Raises `Error`."""
        path = self.folder / f"{root}.crl"
        data = read_key_file(path, "the revocation list", RESTORE)
        try:
            crl = x509.load_pem_x509_crl(data)
            _ = crl.issuer, list(crl), list(crl.extensions)
            if not crl.is_signature_valid(self.certificate(root).public_key()):  # type: ignore[arg-type]
                raise InvalidSignature
        except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature) as error:
            message = f"this is not a revocation list of {root}"
            raise Error(message, where=str(path), hint=RESTORE) from error
        return crl

    def revoked(self) -> dict[str, Revoked]:
        """Return the revocation entry of each revoked signer, by name."""
        entries = {
            entry.serial: entry
            for root in self.roots
            if not root.removed
            for entry in read_revocations(self.revocations(root.name))
        }
        serials = {signer.name: self.certificate(signer.name).serial_number for signer in self.signers}
        return {name: entries[serial] for name, serial in serials.items() if serial in entries}

    def keyring(self) -> bytes:
        """Return the keyring as PEM: each root that was not removed, with its revocation list (RAUC's `[keyring]`).

        The same keys give the same bytes.
        """
        trusted = [root.name for root in self.roots if not root.removed]
        return b"".join(to_pem(self.certificate(name)) + to_pem(self.revocations(name)) for name in trusted)

    def save(self) -> "KeyFolder":
        """Write `keys.json` and return self. Certificates and keys that it names must exist before."""
        document = {"format": FORMAT, **asdict(self)}
        del document["folder"]
        for root in document["roots"]:
            root[REMOVED] = root.pop("removed")
        write_key_file(self.folder / STATE, (json.dumps(document, indent=1) + "\n").encode(), mode=PUBLIC)
        return self

    def with_signer(self, signer: SignerEntry) -> "KeyFolder":
        """Return a copy with one more signer, which signs from now on."""
        return replace(self, signers=(*self.signers, signer), signer=signer.name)


def has_keys(folder: Path) -> bool:
    """Whether `folder` is a key folder."""
    return (folder / STATE).is_file()


def load_keys(folder: Path) -> KeyFolder:
    """Read the keys in `folder`. Raises `Error` if there are none."""
    hint = f"create keys with `edge-osbuild keys init {folder}`"
    text = read_key_file(folder / STATE, "the list of keys", hint)
    try:
        document: Mapping[str, Any] = parse_json(text)
        if document["format"] != FORMAT:
            raise ValueError(f"the format is {document['format']!r}, but this edge-osbuild reads format {FORMAT}")
        keys = KeyFolder(
            folder,
            str(document["owner"]),
            bool(document["development"]),
            tuple(
                RootEntry(entry["name"], entry.get("token"), bool(entry.get(REMOVED, False)))
                for entry in document["roots"]
            ),
            tuple(SignerEntry(**entry) for entry in document["signers"]),
            str(document["signer"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        message = f"this is not a list of keys: {type(error).__name__}: {error}"
        raise Error(message, where=str(folder / STATE), hint=RESTORE) from error
    # keys.json can be edited, but not what the certificates say.
    marked = False
    with suppress(Error):  # whoever needs the certificate says what is wrong with it
        marked = any(is_development(keys.certificate(root.name)) for root in keys.roots)
    return replace(keys, development=keys.development or marked)


def check_signer(keys: KeyFolder, signer: SignerEntry, at: datetime | None = None) -> x509.Certificate:
    """Return the signer's certificate. Raises `Error` if it may not sign at the time `at` (now if None)."""
    at = at or current_time()
    certificate = keys.certificate(signer.name)
    where, rotate_hint = str(keys.folder), f"create a new signer with `edge-osbuild keys rotate {keys.folder}`"
    if revocation := keys.revoked().get(signer.name):
        raise Error(
            f"{signer.name} was revoked on {revocation.when:%Y-%m-%d} ({revocation.reason})",
            where=where,
            hint=rotate_hint,
        )
    if keys.find_root(signer.root).removed:
        raise Error(f"{signer.root}, which issued {signer.name}, was removed", where=where, hint=rotate_hint)
    if certificate.not_valid_after_utc <= at:
        raise Error(
            f"{signer.name} expired on {certificate.not_valid_after_utc:%Y-%m-%d}", where=where, hint=rotate_hint
        )
    if certificate.not_valid_before_utc > at:
        message = f"{signer.name} is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        raise Error(message, where=where, hint="check this host's clock")
    return certificate
