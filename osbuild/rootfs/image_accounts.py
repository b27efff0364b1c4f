"""Checks users and groups of a profile against the finished root, which has those of all packages."""

from pathlib import Path

from osbuild.config.checks.account_table import parse_account_table
from osbuild.config.checks.accounts import check_group, check_name
from osbuild.config.document import quote_text
from osbuild.config.profile import Profile
from osbuild.rootfs.image_root import ImageRoot
from osbuild.shared.errors import Error


def check_image_accounts(profile: Profile, root: Path) -> None:
    """Raise `Error` if a user of the profile conflicts with an account of `root`, or lacks its shell or a group."""
    image = ImageRoot(root)
    users, groups = (frozenset(read_account_table(image, name)) for name in ("passwd", "group"))
    for user in profile.users:
        position = f"users, {user.name}"
        check_name(user.name, users, groups, position)
        for group in user.groups:
            check_group(group, groups.union(user_settings.name for user_settings in profile.users), position)
        if image.status(user.shell.lstrip("/")) is None:
            message = (
                f"found the shell {quote_text(user.shell)} for the user `{user.name}`, which the image does not have"
            )
            raise Error(message, where=position, hint="write `/bin/bash`, or add its package")


def read_account_table(image: ImageRoot, name: str) -> dict[str, int]:
    """Return the numbers in the image's file `passwd` or `group` by name. Raises `Error`."""
    try:
        return parse_account_table(image.read_file(f"etc/{name}"))
    except ValueError as error:
        hint = "an overlay or element has replaced it: correct it there"
        raise Error(str(error), where=f"/etc/{name} of the image", hint=hint) from error
