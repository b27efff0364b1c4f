"""Checks users and groups of a profile against the finished root, which has those of all packages."""

from pathlib import Path

from osbuild.config.checks.accounts import check_group, check_name
from osbuild.config.document import quote_text
from osbuild.config.profile import Profile
from osbuild.rootfs.image_root import ImageRoot
from osbuild.shared.errors import Error


def check_image_accounts(profile: Profile, root: Path) -> None:
    """Raise `Error` if a user of the profile conflicts with an account of `root`, or lacks its shell or a group."""
    image = ImageRoot(root)
    users, groups = (
        frozenset(
            line.partition(":")[0] for line in image.read_file(f"etc/{name}").decode(errors="replace").splitlines()
        )
        for name in ("passwd", "group")
    )
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
