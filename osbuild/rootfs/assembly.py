"""Assembles the root file system from Debian's root, kernel modules, overlays and components."""

import fnmatch
import glob
import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from osbuild.config.checks.overlays import FOLDER, IDENTITY, OS_RELEASE, check_special_bits, overlay_error
from osbuild.config.profile import Profile
from osbuild.host.modes import fixed_mode
from osbuild.host.paths import display_path
from osbuild.host.walk import walk_folder
from osbuild.rootfs.agent_zipapp import build_zipapp
from osbuild.rootfs.image_accounts import read_account_table
from osbuild.rootfs.image_root import ImageRoot
from osbuild.sandbox.tools_tree import ToolsTree
from osbuild.shared.errors import Error
from osbuild.shared.image_description import DESCRIPTION_FILE, ImageDescription

# Folders that are moved to the data partition: link in the root -> folder below /var.
STATEFUL = {
    "home": "var/home",
    "root": "var/roothome",
    "opt": "var/opt",
    "srv": "var/srv",
    "mnt": "var/mnt",
    "usr/local": "var/usrlocal",
}
BACKSLASH = "\\"
# Package databases belong to the image, not to the node: link below /var -> path in the image.
IMAGE_STATE = {"var/lib/dpkg": "usr/lib/sysimage/dpkg", "var/lib/pam": "usr/lib/sysimage/pam"}


@dataclass(frozen=True)
class RootContents:
    """What a root is made of: a tar, and `trees` that are copied over it in order. `epoch` is in seconds since 1970."""

    tools: ToolsTree
    root_tar: Path
    trees: tuple[Path, ...]
    epoch: int


@dataclass(frozen=True)
class ImageSettings:
    """What a root says about its image. `description` becomes image.json in `/usr/lib/edge-osbuild`, `kubernetes`
    kubernetes.json beside it; `files` is path -> contents.
    """

    profile: Profile
    description: ImageDescription
    kubernetes: Mapping[str, Any] | None
    files: Mapping[Path, bytes]


def assemble_system(target: Path, contents: RootContents, settings: ImageSettings) -> None:
    """Create the folder `target` with the contents of the root file system.

    No file has a time after the epoch, so that the result does not depend on the time of the build.
    """
    tools, epoch = contents.tools, contents.epoch
    root = unpack_root(target, contents)
    for path, data in settings.files.items():
        root.write_file(path, data)
    agent = target.with_name("edge-agent")
    build_zipapp(agent, tools.run_command)
    with agent.open("rb") as file:
        root.copy_file(file.fileno(), "usr/bin/edge-agent", epoch)
    agent.unlink()
    write_settings(root, settings.profile, settings.description)
    if settings.kubernetes:
        text = json.dumps(settings.kubernetes, indent=2, sort_keys=True) + "\n"
        root.write_file("usr/lib/edge-osbuild/kubernetes.json", text)
    tools.run_command(["systemd-sysusers", f"--root={target}"], [target])
    tools.run_command(["systemctl", f"--root={target}", "--preset-mode=full", "preset-all"], [target])
    move_state_out(root)
    clamp_times(target, epoch)


def assemble_base(target: Path, contents: RootContents) -> None:
    """Create the folder `target` with the base that images with different overlays share. Raises `Error`."""
    move_state_out(unpack_root(target, contents))
    clamp_times(target, contents.epoch)


def unpack_root(target: Path, contents: RootContents) -> ImageRoot:
    """Unpack the tar to the new folder `target`, and copy the trees over it."""
    root_tar = contents.root_tar
    target.mkdir()
    contents.tools.run_command(
        ["tar", "--extract", "--numeric-owner", "--xattrs", f"--file={root_tar}", f"--directory={target}"],
        [root_tar, target],
    )
    target.chmod(0o755)
    # diskimage-builder restores resolv.conf after the last hook, so the folder has the current time.
    os.utime(target / "etc", (0, 0), follow_symlinks=False)
    root = ImageRoot(target)
    for file_tree in contents.trees:
        copy_file_tree(file_tree, root, contents.epoch)
    return root


def copy_file_tree(file_tree: Path, target: ImageRoot, epoch: int) -> None:
    """Copy `file_tree` over `target`. Folders are merged, files and links replaced.

    Files are owned by root, dated `epoch`, with modes of `fixed_mode`. Raises `Error` if the copy would replace a
    folder of the image or a link to a folder, or if `file_tree` changes during the copy.
    """
    try:
        for item in walk_folder(file_tree):
            check_replaces(file_tree, item.path, target, folder=item.is_folder)
            if item.is_folder:
                target.make_folder(item.path, fixed_mode(item.status.st_mode))
            elif item.is_link:
                target.make_link(item.path, Path(item.link_target()), epoch)
            elif not item.is_file:
                raise overlay_error(file_tree, item.path, "is not a file, folder or link", "let tmpfiles.d create it")
            else:
                check_special_bits(file_tree, item)
                with item.opened() as descriptor:
                    target.copy_file(descriptor, item.path, epoch)
            if item.path.suffix == ".py":
                drop_bytecode(file_tree / item.path, item.path, target)
    except OSError as error:
        hint = "do not change the overlay during a build; check the permissions of its files, and the free disk space"
        message = f"cannot be copied: {error.strerror or error}" + (f": {error.filename}" if error.filename else "")
        raise Error(message, where=f"overlay {display_path(file_tree)}", hint=hint) from error


def drop_bytecode(source: Path, path: PurePosixPath, target: ImageRoot) -> None:
    """Remove the byte code of the Python module at `path` that `source` replaces.

    Byte code beside `source` is kept.
    """
    # Byte code in the image is never checked against its source (element `edge-debian`), so an older file would be run.
    cache = path.parent / "__pycache__"
    if target.is_folder(cache):
        with target.folder(cache) as folder:
            names = fnmatch.filter(os.listdir(folder), f"{glob.escape(path.stem)}.*.pyc")  # noqa: PTH208
        for name in names:
            if not (source.parent / "__pycache__" / name).exists():
                target.remove_path(cache / name)


def write_settings(target: ImageRoot, profile: Profile, description: ImageDescription) -> None:
    """Write the profile's kernel modules and sysctls, the description, and the name and version of the image."""
    if profile.kernel.modules:
        lines = (f"{name}\n" for name in profile.kernel.modules)
        target.write_file("usr/lib/modules-load.d/50-profile.conf", "".join(lines))
    if profile.kernel.sysctls:
        lines = (f"{name} = {value}\n" for name, value in sorted(profile.kernel.sysctls.items()))
        target.write_file("usr/lib/sysctl.d/80-profile.conf", "".join(lines))
    target.write_file(DESCRIPTION_FILE, description.to_text())
    release = target.read_file(OS_RELEASE).decode()
    other_lines = [line for line in release.splitlines() if line.partition("=")[0].strip() not in IDENTITY]
    identity = [f"{name}={getattr(profile, key)}" for name, key in IDENTITY.items()]
    target.write_file(OS_RELEASE, "\n".join([*other_lines, *identity]) + "\n")
    # If the clock is before this file's time, systemd sets it to that time (systemd(1)). `clamp_times` dates the file.
    target.write_file("usr/lib/clock-epoch", "")


def move_state_out(target: ImageRoot) -> None:
    """Move everything that changes at run time out of the root. systemd-tmpfiles creates /var on the data partition."""
    for link, path in STATEFUL.items():
        target.remove_path(link)
        target.make_link(link, "../" * link.count("/") + path)
    for link, path in IMAGE_STATE.items():
        if target.status(link):
            target.rename(link, path)
    target.write_file("usr/lib/tmpfiles.d/00-edge-var.conf", tmpfiles_lines(target))
    for folder in ("var", "boot", "tmp", "run", "dev"):
        target.empty_folder(folder)
    for folder in ("proc", "sys", "efi"):
        target.make_folder(folder)
    target.write_file("etc/machine-id", "")


def tmpfiles_lines(target: ImageRoot) -> str:
    """Return lines of tmpfiles.d(5) for every folder and link below /var."""
    users, groups = (
        # Of several names of one number, the first one counts, as in getpwuid(3).
        {number: account for account, number in reversed(read_account_table(target, name).items())}
        for name in ("passwd", "group")
    )
    lines = ["# Made by the build: the folders below /var of packages and overlays.\n"]
    for folder in STATEFUL.values():
        mode = "0700" if folder == "var/roothome" else "0755"
        lines.append(f"d /{folder} {mode} root root -\n")
    for link, path in IMAGE_STATE.items():
        if target.status(path):
            lines.append(f"L+ /{link} - - - - /{path}\n")
    for item in walk_folder(target.path / "var") if target.is_folder("var") else ():
        name, status = quote_tmpfiles(f"/var/{item.path}"), item.status
        if item.is_link:
            lines.append(f"L {name} - - - - {escaped(item.link_target(), ' ' + BACKSLASH)}\n")
        elif item.is_folder:
            owner, group = users.get(status.st_uid, str(status.st_uid)), groups.get(status.st_gid, str(status.st_gid))
            lines.append(f"d {name} {status.st_mode & 0o7777:04o} {owner} {group} -\n")
    return "".join(lines)


def escaped(text: str, special: str) -> str:
    """Return `text` with `%`, which begins a specifier, doubled, and C escapes for special or unprintable bytes."""
    return "".join(
        chr(byte) if 0x20 <= byte < 0x7F and chr(byte) not in special else f"\\x{byte:02x}"
        for byte in os.fsencode(text.replace("%", "%%"))
    )


def quote_tmpfiles(path: str) -> str:
    """Return a path, quoted for tmpfiles.d(5)."""
    text = escaped(path, '\\"')
    return f'"{text}"' if re.search(r"[ \\']", text) else text


def clamp_times(target: Path, epoch: int) -> None:
    """Set every modification time that is 0 or after `epoch` to `epoch`.

    Files of packages keep their times. The installation of packages has set the time of other files to 0.
    """
    for base, folders, files in os.walk(target, topdown=False):
        for name in [*folders, *files]:
            path = os.path.join(base, name)  # noqa: PTH118 - 20,000 of them
            if not 0 < os.lstat(path).st_mtime <= epoch:
                os.utime(path, (epoch, epoch), follow_symlinks=False)
    os.utime(target, (epoch, epoch))


def check_replaces(overlay: Path, path: PurePosixPath, target: ImageRoot, *, folder: bool) -> None:
    """Raise `Error` if `path` would replace a folder of the image, or, being a `folder`, a link to a folder."""
    status = target.status(path)
    if status is None:
        return
    if folder and stat.S_ISLNK(status.st_mode):
        link_target = target.link_target(path)
        hint = f"move its files to the target of the link: {link_target}"
        raise overlay_error(overlay, path, f"is a folder here and a link to {link_target} in the image", hint)
    if not folder and stat.S_ISDIR(status.st_mode):
        raise overlay_error(overlay, path, "would replace a folder of the image", FOLDER)
