"""What changes keys: making them, rotating signer and root, revoking."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from osbuild.host.cache import Cache
from osbuild.keys import key_files, private_key
from osbuild.keys.certificate import (
    SIGNER_DAYS,
    CertificateRequest,
    Revoked,
    current_time,
    list_number,
    make_revocation_list,
    make_root,
    make_signer,
    to_pem,
)
from osbuild.keys.certificate import read_revocations as entries_of
from osbuild.keys.key_files import PUBLIC, write_key_file
from osbuild.keys.key_folder import ROOT_FOLDER, KeyFolder, RootEntry, SignerEntry, has_keys, load_keys
from osbuild.keys.pkcs11_token import TokenKey
from osbuild.keys.private_key import Key
from osbuild.shared.errors import Error, UsageError


@dataclass(frozen=True)
class PrivateKeyAccess:
    """How private keys are reached.

    `root_folder` is where the roots' are (None: `root/` in the key folder); secrets are those behind the references
    that the user gave; `new_token` is the PKCS#11 URI of a key that a new certificate is for, None to make a file.
    """

    root_folder: Path | None = None
    root_secret: bytes | None = None
    secret: bytes | None = None
    pin: bytes | None = None
    new_token: str | None = None

    def roots(self, folder: Path) -> Path:
        """The folder of the roots' private keys."""
        return self.root_folder or folder / ROOT_FOLDER

    def token(self, uri: str) -> TokenKey:
        """The key in a token. Raises `Error`."""
        from osbuild.sandbox.bundle_tools import bundle_tools  # only with a token: making the tree takes a minute

        return TokenKey(bundle_tools(Cache()), uri, self.pin)


def create_keys(
    folder: Path, owner: str, access: PrivateKeyAccess, *, development: bool = False, root_token: str | None = None
) -> KeyFolder:
    """Make a root, an empty list of revoked certificates and a first signer in `folder`. Raises `Error`."""
    roots = [] if root_token else [access.roots(folder)]
    if roots and access.root_folder is None:
        key_files.check_only_keys(roots[0])
    with key_files.key_folder_lock(folder, *roots):
        if has_keys(folder):
            raise Error("there are keys already", where=str(folder), hint="rotate them, or name another folder")
        root_key = _new_root(folder, RootEntry("root-1", root_token), owner, access, development=development)
        bare = KeyFolder(folder, owner, development, (RootEntry("root-1", root_token),), (), "")
        return _add_signer(bare, bare.roots[0], root_key, access, SIGNER_DAYS).save()


def rotate_signer(
    folder: Path, access: PrivateKeyAccess, *, below: str | None = None, days: int = SIGNER_DAYS
) -> KeyFolder:
    """Make a new signer, which signs from now on; the older ones stay valid. `below` names its root.

    Without `below` it is the root of the signer before it, or the newest one if that was dropped. Raises `Error`.
    """
    with key_files.key_folder_lock(folder):
        keys = load_keys(folder)
        root = keys.find_root(below or keys.find_signer().root)
        if root.dropped:
            kept = [each for each in keys.roots if not each.dropped]
            if below or not kept:
                raise Error(f"{root.name} was dropped", where=str(folder), hint="`edge-osbuild keys rotate --root`")
            root = kept[-1]
        return _add_signer(keys, root, root_key_of(keys, root, access), access, days).save()


def rotate_root(folder: Path, access: PrivateKeyAccess) -> KeyFolder:
    """Make a new root beside the older ones: from now on it is in the keyring, but signs nothing. Raises `Error`."""
    with key_files.key_folder_lock(folder, *([] if access.new_token else [access.roots(folder)])):
        keys = load_keys(folder)
        root = RootEntry(f"root-{len(keys.roots) + 1}", access.new_token)
        _new_root(folder, root, keys.owner, access, development=keys.development)
        return replace(keys, roots=(*keys.roots, root)).save()


def revoke_key(folder: Path, name: str, access: PrivateKeyAccess, *, reason: str = "superseded") -> KeyFolder:
    """Revoke a signer (by its root's list), or drop a root (from the keyring). Raises `Error`.

    The root that the current signer is below can't be dropped: with it, every new bundle would be refused.
    """
    with key_files.key_folder_lock(folder):
        keys = load_keys(folder)
        if name.startswith("root-"):
            return _drop(keys, keys.find_root(name)).save()
        signer = keys.find_signer(name)
        root, serial = keys.find_root(signer.root), keys.certificate(name).serial_number
        if root.dropped:
            message = f"{name} is worth nothing already: its root {root.name} was dropped"
            raise Error(message, where=str(folder), hint="nothing is left to do")
        crl = keys.revocations(root.name)
        found = entries_of(crl)
        if any(entry.serial == serial for entry in found):
            raise Error(f"{name} was revoked before", where=str(folder), hint="nothing is left to do")
        root_key = root_key_of(keys, root, access)
        made = make_revocation_list(
            keys.certificate(root.name),
            root_key,
            [*found, Revoked(serial, current_time(), reason)],
            list_number(crl) + 1,
        )
        write_key_file(folder / f"{root.name}.crl", to_pem(made), mode=PUBLIC)
        return keys


def root_key_of(keys: KeyFolder, root: RootEntry, access: PrivateKeyAccess) -> Key:
    """A root's private key, which must belong to its certificate. Raises `Error`."""
    if root.token:
        key: Key = access.token(root.token)
    else:
        path = access.roots(keys.folder) / f"{root.name}.key"
        hint = "it may be offline: name the folder that it is in with --root-keys"
        key = private_key.load_key(path, access.root_secret, option="--root-passphrase", hint=hint)
    return check_pair(keys, root.name, key)


def check_pair(keys: KeyFolder, name: str, key: Key) -> Key:
    """`key` if it belongs to the certificate `name`. Raises `Error`."""
    if keys.certificate(name).public_key() != key.public_key():
        hint = "one of the two is of another key folder: restore them from one backup"
        raise Error(f"the private key of {name} is not that of its certificate", where=str(keys.folder), hint=hint)
    return key


def _new_root(folder: Path, root: RootEntry, owner: str, access: PrivateKeyAccess, *, development: bool) -> Key:
    def save(key: Key) -> None:
        private_key.save_key(access.roots(folder) / f"{root.name}.key", key, access.root_secret)

    key = _new_key(root.token, access, save)
    certificate = make_root(key, CertificateRequest(owner, root.name, development))
    write_key_file(folder / f"{root.name}.crt", to_pem(certificate), mode=PUBLIC)
    write_key_file(folder / f"{root.name}.crl", to_pem(make_revocation_list(certificate, key, [], 1)), mode=PUBLIC)
    return key


def _add_signer(keys: KeyFolder, root: RootEntry, root_key: Key, access: PrivateKeyAccess, days: int) -> KeyFolder:
    if days < 1:
        raise UsageError(f"a certificate can't live for {days} days", hint="give 1 or more")
    if keys.certificate(root.name).not_valid_after_utc <= current_time() + timedelta(days=1):
        hint = "`edge-osbuild keys rotate --root` makes a new one"
        raise Error(f"{root.name} has expired", where=str(keys.folder), hint=hint)
    signer = SignerEntry(f"signer-{len(keys.signers) + 1}", root.name, access.new_token)
    path = keys.folder / f"{signer.name}.key"
    key = _new_key(signer.token, access, lambda made: private_key.save_key(path, made, access.secret))
    request = CertificateRequest(keys.owner, signer.name, keys.development, days)
    certificate = make_signer(keys.certificate(root.name), root_key, key.public_key(), request)
    write_key_file(keys.folder / f"{signer.name}.crt", to_pem(certificate), mode=PUBLIC)
    return keys.with_signer(signer)


def _new_key(token: str | None, access: PrivateKeyAccess, save: Callable[[Key], None]) -> Key:
    if token:
        return access.token(token)
    key = private_key.generate_key()
    save(key)
    return key


def _drop(keys: KeyFolder, root: RootEntry) -> KeyFolder:
    if root.dropped:
        raise Error(f"{root.name} was dropped before", where=str(keys.folder), hint="nothing is left to do")
    if keys.find_signer().root == root.name:
        message = f"{keys.signer}, which signs now, is below {root.name}: dropping it would end all updates"
        hint = "first `edge-osbuild keys rotate --root`, bring that image to all devices, then `rotate --below` the new"
        raise Error(message, where=str(keys.folder), hint=hint)
    kept = tuple(replace(each, dropped=True) if each.name == root.name else each for each in keys.roots)
    return replace(keys, roots=kept)
