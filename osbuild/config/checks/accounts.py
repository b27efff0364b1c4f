"""Checks that users and groups of a profile do not conflict with each other or with those of the image."""

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from osbuild.config.checks import ssh_key
from osbuild.config.document import quote_text
from osbuild.config.profile import Profile, User
from osbuild.config.scalars import find_nearest
from osbuild.shared.errors import Error
from osbuild.shared.files import read_file

# Accounts of the packages in every image (passwd(5), group(5)). `useradd` ignores a user that exists, and fails if a
# group of that name exists, because each user gets a group of the same name.
USERS = frozenset({
    "_apt", "backup", "bin", "daemon", "dhcpcd", "games", "irc", "list", "lp", "mail", "man", "messagebus", "news",
    "nobody", "proxy", "root", "sshd", "sync", "sys", "systemd-network", "systemd-resolve", "systemd-timesync",
    "uucp", "www-data",
})  # fmt: skip
GROUPS = frozenset({
    "_ssh", "adm", "audio", "backup", "bin", "cdrom", "clock", "daemon", "dialout", "dip", "disk", "fax", "floppy",
    "games", "input", "irc", "kmem", "kvm", "list", "lp", "mail", "man", "messagebus", "news", "nogroup", "operator",
    "plugdev", "proxy", "render", "root", "sasl", "sgx", "shadow", "src", "staff", "sudo", "sys", "systemd-journal",
    "systemd-network", "systemd-resolve", "systemd-timesync", "tape", "tty", "users", "utmp", "uucp", "video",
    "voice", "www-data",
})  # fmt: skip
SHELLS = frozenset({
    "/bin/bash", "/bin/dash", "/bin/false", "/bin/rbash", "/bin/sh", "/sbin/nologin", "/usr/bin/bash",
    "/usr/bin/dash", "/usr/bin/false", "/usr/bin/rbash", "/usr/bin/sh", "/usr/sbin/nologin",
})  # fmt: skip
PACKAGED = ("busybox", "csh", "fish", "ksh", "ksh93u+m", "mksh", "tcsh", "yash", "zsh")
"""Packages with a shell of the same name."""

Where = Callable[..., str]


def check_accounts(profile: Profile, trees: Iterable[Path], where: Where) -> None:
    """Raise `Error` for the first user that Debian's `useradd` would not create as specified.

    `trees` are the folders of the profile's overlays, which may declare accounts (sysusers.d(5)) and contain shells.
    Groups of the profile's packages and elements are known only after the build, see `check_image_accounts`.
    """
    folders = list(trees)
    users, groups = declared_accounts(folders)
    seen: dict[str, int] = {}
    later = [user.name for user in profile.users]
    for number, user in enumerate(profile.users):
        position = where(f"users[{number}].name")
        if user.name in seen:
            hint = f"the other is at {where(f'users[{seen[user.name]}].name')}: keep one of them"
            raise Error(f"found two users `{user.name}`", where=position, hint=hint)
        seen[user.name] = number
        check_name(user.name, users, groups, position)
        for at, group in enumerate(user.groups):
            if group in later[number:]:
                check_order(user.name, group, where(f"users[{number}].groups[{at}]"))
            if not (profile.packages or profile.elements):
                check_group(group, groups | seen.keys(), where(f"users[{number}].groups[{at}]"))
        check_shell(profile, user, folders, where(f"users[{number}].shell"))
        for at, line in enumerate(user.ssh_keys):
            if not line.startswith(("file:", "env:")):
                check_ssh_key(user.name, line, where(f"users[{number}].ssh_keys[{at}]"))


def check_ssh_key(name: str, line: str, position: str) -> None:
    """Raise `Error` for a line that is not an SSH public key of the user `name`."""
    if reason := ssh_key.public_key_problem(line):
        message = f"found no SSH public key for user `{name}`: {reason}"
        hint = "paste the line of the `.pub` file, or write `file:PATH` or `env:NAME`"
        raise Error(message, where=position, hint=hint)


def account_name_problem(name: str) -> str | None:
    """Say why Debian's useradd(8) and groupadd(8) refuse the name; None if they accept it.

    Profiles only allow a part of these names.
    """
    if name in (".", "..") or name.isdigit():
        return "it is a number, `.` or `..`"
    if not re.fullmatch(r"[A-Za-z0-9_.][A-Za-z0-9_.-]*\$?", name):
        return "it has another character than ASCII letters, digits, `_`, `.` and inner `-`"
    return None


def check_name(name: str, users: frozenset[str], groups: frozenset[str], position: str) -> None:
    """Raise `Error` for the name of an account that the image already has."""
    if name == "root":
        hint = "give a user `sudo: true` instead"
        raise Error("root is locked, and can't be a user of a profile", where=position, hint=hint)
    if name == "default":
        message = "found the user `default`, which is a reserved name of cloud-init"
        raise Error(message, where=position, hint="write another name, such as `admin`")
    if name in users or name.startswith("systemd-"):
        message = f"found the user `{name}`, which is a system account of the image"
        raise Error(message, where=position, hint="write another name, such as `admin`")
    if name in groups:
        message = f"found the user `{name}`, which is a group of the image: each user gets a group of the same name"
        raise Error(message, where=position, hint=f"write another name, and `groups: [{name}]`")


def check_group(group: str, known: frozenset[str], position: str) -> None:
    """Raise `Error` for a group that is not in `known`, because the user would lack its permissions."""
    if group in known:
        return
    suggestion = find_nearest(group, known, cutoff=0.75)
    hint = f"did you mean `{suggestion}`?" if suggestion else (
        f"remove it; or let the image create it: a line `g {group} -` in `usr/lib/sysusers.d/NAME.conf` of an overlay, "
        "or its package in `packages`"
    )  # fmt: skip
    raise Error(f"found the group {quote_text(group)}, which the image does not have", where=position, hint=hint)


def check_order(name: str, group: str, position: str) -> None:
    """Raise `Error` for a group that is created before the user of the same name, because `useradd` would fail."""
    if group == name:
        message = f"found the group `{group}` for the user of the same name, who gets that group anyway"
        raise Error(message, where=position, hint="remove it")
    message = f"found the group `{group}` before the user of that name, who gets a group of the same name"
    raise Error(message, where=position, hint=f"move the user `{group}` before `{name}`")


def check_shell(profile: Profile, user: User, folders: Iterable[Path], position: str) -> None:
    """Raise `Error` for a shell that the image does not have, because sshd(8) refuses a user without a shell."""
    shell, name = user.shell, Path(user.shell).name
    if shell in SHELLS or any(is_file(folder / shell.lstrip("/")) for folder in folders):
        return
    if name in profile.packages or (profile.packages and name not in PACKAGED):
        return
    message = f"found the shell {quote_text(shell)} for the user `{user.name}`, which the image does not have"
    hint = f"add it: `packages+: [{name}]`" if name in PACKAGED else "write `/bin/bash`, or add its package"
    raise Error(message, where=position, hint=hint)


def is_file(path: Path) -> bool:
    """Whether there is a file at `path`, which may be longer than a path can be."""
    try:
        return path.is_file()
    except OSError:
        return False


def declared_accounts(folders: Iterable[Path]) -> tuple[frozenset[str], frozenset[str]]:
    """Return the users and groups of every image and those that overlays declare."""
    users, groups = set(USERS), set(GROUPS)
    for kind, name in sysusers_entries(folders):
        if kind == "u":
            users.add(name)
        groups.add(name)
    return frozenset(users), frozenset(groups)


def sysusers_entries(folders: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """Yield (type, name) of every user and group in the folders' sysusers.d(5) files."""
    for folder in folders:
        for path in sorted([*folder.glob("usr/lib/sysusers.d/*.conf"), *folder.glob("etc/sysusers.d/*.conf")]):
            try:
                text = read_file(path).decode()
            except (OSError, ValueError):
                continue  # the build reports this
            for match in re.finditer(
                r"^\s*([ugm])!?\s+\"?([A-Za-z_][\w-]*)\"?(?:\s+\"?([A-Za-z_][\w-]*))?", text, re.MULTILINE
            ):
                if match[1] != "m":
                    yield match[1], match[2]
                elif match[3]:  # a member of a group makes both
                    yield from (("u", match[2]), ("g", match[3]))
