"""Users of a seed: references resolved, keys and password hashes checked, user ids assigned."""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from osbuild.config import secrets
from osbuild.config.checks import password_hash as hashes
from osbuild.config.metadata import SecretRef
from osbuild.config.profile import User
from osbuild.shared.errors import Error

FIRST_UID, UIDS = 1000, 50000  # within Debian's range for people, 1000 to 59999


@dataclass(frozen=True)
class Account:
    """A user with all references resolved."""

    name: str
    uid: int
    groups: tuple[str, ...]
    sudo: bool
    shell: str
    ssh_keys: tuple[str, ...]
    password: str | None = field(repr=False)


def resolve_accounts(users: Iterable[User], folder: Path) -> tuple[Account, ...]:
    """Resolve `users`. References are relative to `folder`. Raises `Error` for a key or hash that is invalid."""
    accounts: list[Account] = []
    used_ids: set[int] = set()
    for user in users:
        where = f"users, {user.name}"
        uid = user_id(user.name, used_ids)
        used_ids.add(uid)
        accounts.append(
            Account(
                user.name,
                uid,
                user.groups,
                user.sudo,
                user.shell,
                tuple(dict.fromkeys(secrets.resolve_public_keys(user.ssh_keys, folder=folder))),
                resolve_password(user.password, folder, where),
            )
        )
    return tuple(accounts)


def user_id(name: str, used_ids: set[int]) -> int:
    """Return a user id derived from the name, which is not in `used_ids`."""
    # Home folders are kept over reboots, so a user must get the same id from every seed.
    start = zlib.crc32(name.encode()) % UIDS
    return next(uid for step in range(UIDS) if (uid := FIRST_UID + (start + step) % UIDS) not in used_ids)


def resolve_password(reference: SecretRef | None, folder: Path, where: str) -> str | None:
    """Return a password's hash (crypt(5)). Raises `Error`, which never contains the hash."""
    if reference is None:
        return None
    text = secrets.resolve_secret(reference, folder=folder)
    if reason := hashes.password_problem(text):
        raise Error(
            f"this is not a password hash: {reason}",
            where=f"{where}, {reference}",
            hint="store the output of `openssl passwd -6`, never the password itself",
        )
    return text
