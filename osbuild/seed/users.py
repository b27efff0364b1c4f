"""Users as the seed has them: references resolved, keys and password hashes checked, user ids fixed."""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from osbuild.config import secrets
from osbuild.config.checks import password_hash as hashes
from osbuild.config.metadata import SecretRef
from osbuild.config.profile import User
from osbuild.shared.errors import Error

FIRST_UID, UIDS = 1000, 50000  # of Debian's range for people, 1000 to 59999


@dataclass(frozen=True)
class Account:
    """A user with everything resolved."""

    name: str
    uid: int
    groups: tuple[str, ...]
    sudo: bool
    shell: str
    ssh_keys: tuple[str, ...]
    password: str | None = field(repr=False)


def resolve_accounts(users: Iterable[User], folder: Path) -> tuple[Account, ...]:
    """Resolve `users`; references are relative to `folder`. Raises `Error` for one that can't be used."""
    made: list[Account] = []
    taken: set[int] = set()
    for user in users:
        where = f"users, {user.name}"
        uid = user_id(user.name, taken)
        taken.add(uid)
        made.append(
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
    return tuple(made)


def user_id(name: str, taken: set[int]) -> int:
    """A user id that follows from the name: home folders outlive a boot, and must keep their owner."""
    start = zlib.crc32(name.encode()) % UIDS
    return next(uid for step in range(UIDS) if (uid := FIRST_UID + (start + step) % UIDS) not in taken)


def resolve_password(reference: SecretRef | None, folder: Path, where: str) -> str | None:
    """A password's hash (crypt(5)). What was found is never part of an error."""
    if reference is None:
        return None
    text = secrets.resolve_secret(reference, folder=folder)
    if reason := hashes.password_problem(text):
        raise Error(
            f"found no hash of a password: {reason}",
            where=f"{where}, {reference}",
            hint="store what `openssl passwd -6` prints, never the password itself",
        )
    return text
