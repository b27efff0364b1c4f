"""A key folder: which roots and signers there are, and where their private halves are.

keys.json            names and references, no secrets
root-1.crt           a root, which devices trust
root-1.crl           what it has revoked
signer-1.crt         a certificate for signing bundles
signer-1.key         its private key, unless that is in a token
root/root-1.key      the root's private key: move this folder to a safe place
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from osbuild.keys.certificate import Revoked, current_time, read_revocations, to_pem
from osbuild.keys.key_files import PUBLIC, read_key_file, write_key_file
from osbuild.shared.errors import Error
from osbuild.shared.json_text import parse_json

FORMAT = 1
STATE, ROOT_FOLDER = "keys.json", "root"


@dataclass(frozen=True)
class RootEntry:
    """`token` is the PKCS#11 URI of its key, None for a file. A dropped root is no longer in the keyring."""

    name: str
    token: str | None = None
    dropped: bool = False


@dataclass(frozen=True)
class SignerEntry:
    """A certificate that `root` signed; `token` is the PKCS#11 URI of its key, None for a file."""

    name: str
    root: str
    token: str | None = None


@dataclass(frozen=True)
class KeyFolder:
    """What is in the key folder `folder`; `signer` is the name of the one that signs bundles now."""

    folder: Path
    owner: str
    development: bool
    roots: tuple[RootEntry, ...]
    signers: tuple[SignerEntry, ...]
    signer: str

    def find_root(self, name: str) -> RootEntry:
        """The root called `name`. Raises `Error`."""
        for root in self.roots:
            if root.name == name:
                return root
        raise self._unknown(name, [root.name for root in self.roots])

    def find_signer(self, name: str | None = None) -> SignerEntry:
        """The signer called `name`, or the one that signs now. Raises `Error`."""
        for signer in self.signers:
            if signer.name == (name or self.signer):
                return signer
        raise self._unknown(name or self.signer, [signer.name for signer in self.signers])

    def _unknown(self, name: str, names: list[str]) -> Error:
        return Error(f"there is no `{name}` here", where=str(self.folder), hint=f"it is one of: {', '.join(names)}")

    def certificate(self, name: str) -> x509.Certificate:
        """The certificate of a root or signer. Raises `Error` where its file is missing or damaged."""
        path = self.folder / f"{name}.crt"
        data = read_key_file(path, "the certificate", "restore it from your backup")
        try:
            found = x509.load_pem_x509_certificate(data)
            # These are parsed when they are asked for, and may be damaged too.
            _ = found.public_key(), found.subject, found.issuer, found.not_valid_after_utc, list(found.extensions)
            return found
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise Error("this is no certificate", where=str(path), hint="restore it from your backup") from error

    def revocations(self, root: str) -> x509.CertificateRevocationList:
        """A root's list of revoked certificates, its signature checked. Raises `Error`."""
        path = self.folder / f"{root}.crl"
        data = read_key_file(path, "the list of revoked certificates", "restore it from your backup")
        try:
            found = x509.load_pem_x509_crl(data)
            _ = found.issuer, list(found), list(found.extensions)
            if not found.is_signature_valid(self.certificate(root).public_key()):  # type: ignore[arg-type]
                raise InvalidSignature
        except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature) as error:
            message = f"this is no list of revoked certificates by {root}"
            raise Error(message, where=str(path), hint="restore it from your backup") from error
        return found

    def revoked(self) -> dict[str, Revoked]:
        """Name of each revoked signer -> when and why."""
        entries = {
            entry.serial: entry
            for root in self.roots
            if not root.dropped
            for entry in read_revocations(self.revocations(root.name))
        }
        serials = {signer.name: self.certificate(signer.name).serial_number for signer in self.signers}
        return {name: entries[serial] for name, serial in serials.items() if serial in entries}

    def keyring(self) -> bytes:
        """What devices check bundles by, as PEM: each root that was not dropped, and its list (RAUC's `[keyring]`).

        The same keys give the same bytes.
        """
        kept = [root.name for root in self.roots if not root.dropped]
        return b"".join(to_pem(self.certificate(name)) + to_pem(self.revocations(name)) for name in kept)

    def save(self) -> "KeyFolder":
        """Write `keys.json`; certificates and keys that it names must be there before."""
        plain = {"format": FORMAT, **asdict(self)}
        del plain["folder"]
        write_key_file(self.folder / STATE, (json.dumps(plain, indent=1) + "\n").encode(), mode=PUBLIC)
        return self

    def with_signer(self, signer: SignerEntry) -> "KeyFolder":
        """The same with one more signer, which signs from now on."""
        return replace(self, signers=(*self.signers, signer), signer=signer.name)


def has_keys(folder: Path) -> bool:
    """Whether there are keys in `folder`."""
    return (folder / STATE).is_file()


def load_keys(folder: Path) -> KeyFolder:
    """The keys in `folder`. Raises `Error` where there are none."""
    hint = f"make some with `edge-osbuild keys init {folder}`"
    text = read_key_file(folder / STATE, "the list of keys", hint)
    try:
        plain: Mapping[str, Any] = parse_json(text)
        if plain["format"] != FORMAT:
            raise ValueError(f"its format is {plain['format']!r}, this edge-osbuild knows {FORMAT}")
        return KeyFolder(
            folder,
            str(plain["owner"]),
            bool(plain["development"]),
            tuple(RootEntry(**each) for each in plain["roots"]),
            tuple(SignerEntry(**each) for each in plain["signers"]),
            str(plain["signer"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        message = f"is no list of keys: {type(error).__name__}: {error}"
        raise Error(message, where=str(folder / STATE), hint="restore it from your backup") from error


def check_signer(keys: KeyFolder, signer: SignerEntry, at: datetime | None = None) -> x509.Certificate:
    """The signer's certificate if it may sign at the time `at` (now if None). Raises `Error` with why it may not."""
    at = at or current_time()
    certificate = keys.certificate(signer.name)
    where, again = str(keys.folder), f"make a new one with `edge-osbuild keys rotate {keys.folder}`"
    if revocation := keys.revoked().get(signer.name):
        raise Error(
            f"{signer.name} was revoked on {revocation.when:%Y-%m-%d} ({revocation.reason})", where=where, hint=again
        )
    if keys.find_root(signer.root).dropped:
        raise Error(f"{signer.name} is below {signer.root}, which was dropped", where=where, hint=again)
    if certificate.not_valid_after_utc <= at:
        raise Error(f"{signer.name} expired on {certificate.not_valid_after_utc:%Y-%m-%d}", where=where, hint=again)
    if certificate.not_valid_before_utc > at:
        message = f"{signer.name} is valid from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC on"
        raise Error(message, where=where, hint="is this machine's clock right?")
    return certificate
