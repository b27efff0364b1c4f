"""Changes key folders: create keys, rotate the signer or the root, revoke."""

from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from osbuild.host.cache import Cache
from osbuild.keys import key_files
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
from osbuild.keys.key_access import KeyFile, TokenAccess, check_pair, new_key, open_key
from osbuild.keys.key_files import PUBLIC, write_key_file
from osbuild.keys.key_folder import ROOT_FOLDER, KeyFolder, RootEntry, SignerEntry, has_keys, load_keys
from osbuild.keys.private_key import Key
from osbuild.sandbox.bundle_tools import bundle_tools
from osbuild.shared.errors import Error, UsageError


@dataclass(frozen=True)
class PrivateKeyAccess:
    """How private keys are accessed.

    `root_folder` has the private keys of the roots (None: `root/` in the key folder). `root_secret` and `secret` are
    passphrases, `pin` is the PIN of a token. `new_token` is the PKCS#11 URI of the key for a new certificate; None
    creates a key file.
    """

    root_folder: Path | None = None
    root_secret: bytes | None = None
    secret: bytes | None = None
    pin: bytes | None = None
    new_token: str | None = None

    def roots(self, folder: Path) -> Path:
        """Return the folder with the private keys of the roots."""
        return self.root_folder or folder / ROOT_FOLDER

    def token_access(self) -> TokenAccess:
        """Return how a PKCS#11 token is accessed."""
        return TokenAccess(lambda: bundle_tools(Cache()), self.pin)


def create_keys(
    folder: Path, owner: str, access: PrivateKeyAccess, *, development: bool = False, root_token: str | None = None
) -> KeyFolder:
    """Create a root, an empty revocation list and a first signer in `folder`. Raises `Error`."""
    roots = [] if root_token else [access.roots(folder)]
    with key_files.key_folder_lock(folder, *roots):
        if has_keys(folder):
            raise Error("this folder has keys already", where=str(folder), hint="rotate them, or name another folder")
        if roots and access.root_folder is None:
            key_files.check_only_keys(roots[0])
        root_key = _new_root(folder, RootEntry("root-1", root_token), owner, access, development=development)
        without_signer = KeyFolder(folder, owner, development, (RootEntry("root-1", root_token),), (), "")
        return _add_signer(without_signer, without_signer.roots[0], root_key, access, SIGNER_DAYS).save()


def rotate_signer(
    folder: Path, access: PrivateKeyAccess, *, below: str | None = None, days: int = SIGNER_DAYS
) -> KeyFolder:
    """Create a new signer, which signs from now on. Older signers stay valid. `days` is its lifetime.

    Its root is `below`, else the root of the previous signer, or the newest root if that root was removed. Raises
    `Error`.
    """
    with key_files.key_folder_lock(folder):
        keys = load_keys(folder)
        root = keys.find_root(below or keys.find_signer().root)
        if root.removed:
            trusted_roots = [root for root in keys.roots if not root.removed]
            if below or not trusted_roots:
                raise Error(f"{root.name} was removed", where=str(folder), hint="`edge-osbuild keys rotate --root`")
            root = trusted_roots[-1]
        return _add_signer(keys, root, root_key_of(keys, root, access), access, days).save()


def rotate_root(folder: Path, access: PrivateKeyAccess) -> KeyFolder:
    """Create another root. It is in the keyring from now on, but signs nothing yet. Raises `Error`."""
    with key_files.key_folder_lock(folder, *([] if access.new_token else [access.roots(folder)])):
        keys = load_keys(folder)
        root = RootEntry(f"root-{len(keys.roots) + 1}", access.new_token)
        _new_root(folder, root, keys.owner, access, development=keys.development)
        return replace(keys, roots=(*keys.roots, root)).save()


def revoke_key(folder: Path, name: str, access: PrivateKeyAccess, *, reason: str = "superseded") -> KeyFolder:
    """Revoke a signer (in its root's revocation list), or remove a root (from the keyring). Raises `Error`.

    The root of the current signer can't be removed, because devices would then refuse every new bundle.
    """
    with key_files.key_folder_lock(folder):
        keys = load_keys(folder)
        if name.startswith("root-"):
            return _remove_root(keys, keys.find_root(name)).save()
        signer = keys.find_signer(name)
        root, serial = keys.find_root(signer.root), keys.certificate(name).serial_number
        if root.removed:
            message = f"{name} is not valid any more, because its root {root.name} was removed"
            raise Error(message, where=str(folder), hint="there is nothing to do")
        crl = keys.revocations(root.name)
        revoked = entries_of(crl)
        if any(entry.serial == serial for entry in revoked):
            raise Error(f"{name} was revoked before", where=str(folder), hint="there is nothing to do")
        root_key = root_key_of(keys, root, access)
        new_crl = make_revocation_list(
            keys.certificate(root.name),
            root_key,
            [*revoked, Revoked(serial, current_time(), reason)],
            list_number(crl) + 1,
        )
        write_key_file(folder / f"{root.name}.crl", to_pem(new_crl), mode=PUBLIC)
        return keys


def root_key_of(keys: KeyFolder, root: RootEntry, access: PrivateKeyAccess) -> Key:
    """Return a root's private key, and check that it belongs to the root's certificate. Raises `Error`."""
    hint = "it may be offline: pass the folder that contains it with --root-keys"
    path = access.roots(keys.folder) / f"{root.name}.key"
    file = KeyFile(path, access.root_secret, option="--root-passphrase", hint=hint)
    return check_pair(keys, root.name, open_key(root.token, file, access.token_access()))


def _new_root(folder: Path, root: RootEntry, owner: str, access: PrivateKeyAccess, *, development: bool) -> Key:
    file = KeyFile(access.roots(folder) / f"{root.name}.key", access.root_secret)
    key = new_key(root.token, file, access.token_access())
    certificate = make_root(key, CertificateRequest(owner, root.name, development))
    write_key_file(folder / f"{root.name}.crt", to_pem(certificate), mode=PUBLIC)
    write_key_file(folder / f"{root.name}.crl", to_pem(make_revocation_list(certificate, key, [], 1)), mode=PUBLIC)
    return key


def _add_signer(keys: KeyFolder, root: RootEntry, root_key: Key, access: PrivateKeyAccess, days: int) -> KeyFolder:
    if days < 1:
        raise UsageError(f"a certificate can't be valid for {days} days", hint="give 1 or more")
    if keys.certificate(root.name).not_valid_after_utc <= current_time() + timedelta(days=1):
        hint = "`edge-osbuild keys rotate --root` makes a new one"
        raise Error(f"{root.name} has expired", where=str(keys.folder), hint=hint)
    signer = SignerEntry(f"signer-{len(keys.signers) + 1}", root.name, access.new_token)
    file = KeyFile(keys.folder / f"{signer.name}.key", access.secret)
    key = new_key(signer.token, file, access.token_access())
    request = CertificateRequest(keys.owner, signer.name, keys.development, days)
    certificate = make_signer(keys.certificate(root.name), root_key, key.public_key(), request)
    write_key_file(keys.folder / f"{signer.name}.crt", to_pem(certificate), mode=PUBLIC)
    return keys.with_signer(signer)


def _remove_root(keys: KeyFolder, root: RootEntry) -> KeyFolder:
    if root.removed:
        raise Error(f"{root.name} was removed before", where=str(keys.folder), hint="there is nothing to do")
    if keys.find_signer().root == root.name:
        message = (
            f"{root.name} issued the current signer {keys.signer}: without it, devices would refuse every new bundle"
        )
        hint = "run `edge-osbuild keys rotate --root`, update all devices, then run `edge-osbuild keys rotate --below` "
        hint += "with the new root"
        raise Error(message, where=str(keys.folder), hint=hint)
    roots = tuple(replace(entry, removed=True) if entry.name == root.name else entry for entry in keys.roots)
    return replace(keys, roots=roots)
