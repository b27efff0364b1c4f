"""Users and groups of a profile against the finished root, which has those of all its packages."""

from pathlib import Path

from osbuild.config.checks.accounts import check_group, check_name
from osbuild.config.document import quote_text
from osbuild.config.profile import Profile
from osbuild.rootfs.image_root import ImageRoot
from osbuild.shared.errors import Error


def check_image_accounts(profile: Profile, root: Path) -> None:
    """The same against the finished `root`, which has accounts, groups and shells of the profile's packages too."""
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
            check_group(group, groups.union(other.name for other in profile.users), position)
        if image.status(user.shell.lstrip("/")) is None:
            message = (
                f"found the shell {quote_text(user.shell)} for the user `{user.name}`, which the image does not have"
            )
            raise Error(message, where=position, hint="write `/bin/bash`, or add its package")
