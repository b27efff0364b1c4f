"""The system: Debian's root, the kernel's modules, overlays and components laid together, ready to be read-only."""

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

from osbuild.config.checks.overlays import FOLDER, overlay_error
from osbuild.config.profile import Profile
from osbuild.host.modes import fixed_mode
from osbuild.host.paths import display_path
from osbuild.host.walk import walk_folder
from osbuild.rootfs.agent_zipapp import build_zipapp
from osbuild.rootfs.image_root import ImageRoot
from osbuild.sandbox.tools_tree import ToolsTree
from osbuild.shared.errors import Error

# Moved to the data partition: link on the root -> folder below /var.
STATEFUL = {
    "home": "var/home",
    "root": "var/roothome",
    "opt": "var/opt",
    "srv": "var/srv",
    "mnt": "var/mnt",
    "usr/local": "var/usrlocal",
}
BACKSLASH = "\\"
# Package databases belong to the image, not to the node: link below /var -> place in the image.
IMAGE_STATE = {"var/lib/dpkg": "usr/lib/sysimage/dpkg", "var/lib/pam": "usr/lib/sysimage/pam"}


@dataclass(frozen=True)
class RootContents:
    """What a root is assembled from: a tar, and `trees` laid over it in order. `epoch` is in seconds since 1970."""

    tools: ToolsTree
    root_tar: Path
    trees: tuple[Path, ...]
    epoch: int


@dataclass(frozen=True)
class ImageSettings:
    """What a root says about its image. `metadata` becomes `/usr/lib/edge-osbuild/image.json`, `kubernetes`
    kubernetes.json beside it; `files` is path -> contents.
    """

    profile: Profile
    metadata: Mapping[str, Any]
    kubernetes: Mapping[str, Any] | None
    files: Mapping[Path, bytes]


def assemble_system(target: Path, contents: RootContents, settings: ImageSettings) -> None:
    """Make the folder `target` what the root file system holds.

    No file is left with a time after the epoch, so that the result does not depend on when it was made.
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
    write_settings(root, settings.profile, settings.metadata)
    if settings.kubernetes:
        text = json.dumps(settings.kubernetes, indent=2, sort_keys=True) + "\n"
        root.write_file("usr/lib/edge-osbuild/kubernetes.json", text)
    tools.run_command(["systemd-sysusers", f"--root={target}"], [target])
    tools.run_command(["systemctl", f"--root={target}", "--preset-mode=full", "preset-all"], [target])
    move_state_out(root)
    clamp_times(target, epoch)


def assemble_base(target: Path, contents: RootContents) -> None:
    """Make the folder `target` what `assemble_system` starts from: what images that add different things have in
    common.
    """
    move_state_out(unpack_root(target, contents))
    clamp_times(target, contents.epoch)


def unpack_root(target: Path, contents: RootContents) -> ImageRoot:
    """Unpack the tar to the new folder `target`, and lay the trees over it."""
    root_tar = contents.root_tar
    target.mkdir()
    contents.tools.run_command(
        ["tar", "--extract", "--numeric-owner", "--xattrs", f"--file={root_tar}", f"--directory={target}"],
        [root_tar, target],
    )
    target.chmod(0o755)
    # diskimage-builder puts resolv.conf back after the last of our hooks, so this has the time of day.
    os.utime(target / "etc", (0, 0), follow_symlinks=False)
    root = ImageRoot(target)
    for tree in contents.trees:
        copy_tree(tree, root, contents.epoch)
    return root


def copy_tree(tree: Path, target: ImageRoot, epoch: int) -> None:
    """Copy `tree` over `target`: owned by root, dated `epoch`, folders merged, files and links replaced.

    Modes are those of `fixed_mode`. Raises `Error` if a folder of the image, or a link to one, would be replaced, or
    if `tree` changes meanwhile.
    """
    try:
        for found in walk_folder(tree):
            check_replaces(tree, found.path, target, folder=found.is_folder)
            if found.is_folder:
                target.make_folder(found.path, fixed_mode(found.status.st_mode))
            elif found.is_link:
                target.make_link(found.path, Path(found.leads_to()), epoch)
            elif not found.is_file:
                raise overlay_error(tree, found.path, "is neither file, folder nor link", "have tmpfiles.d create it")
            else:
                with found.opened() as file:
                    target.copy_file(file, found.path, epoch)
            if found.path.suffix == ".py":
                drop_bytecode(tree / found.path, found.path, target)
    except OSError as error:
        hint = "do not change it while an image is built; check the mode of its files, and the space that is left"
        message = f"cannot be copied: {error.strerror or error}" + (f": {error.filename}" if error.filename else "")
        raise Error(message, where=f"overlay {display_path(tree)}", hint=hint) from error


def drop_bytecode(source: Path, path: PurePosixPath, target: ImageRoot) -> None:
    """Remove the byte code of the Python module that `source` replaces; it is never checked against its source.

    Byte code that comes with `source` is kept (element `edge-debian`).
    """
    cache = path.parent / "__pycache__"
    if target.is_folder(cache):
        with target.folder(cache) as folder:
            names = fnmatch.filter(os.listdir(folder), f"{glob.escape(path.stem)}.*.pyc")  # noqa: PTH208
        for name in names:
            if not (source.parent / "__pycache__" / name).exists():
                target.remove_path(cache / name)


def write_settings(target: ImageRoot, profile: Profile, metadata: Mapping[str, Any]) -> None:
    """Write what the profile says about the image itself: modules, sysctls, identity of the image."""
    if profile.kernel.modules:
        lines = (f"{name}\n" for name in profile.kernel.modules)
        target.write_file("usr/lib/modules-load.d/50-profile.conf", "".join(lines))
    if profile.kernel.sysctls:
        lines = (f"{name} = {value}\n" for name, value in sorted(profile.kernel.sysctls.items()))
        target.write_file("usr/lib/sysctl.d/80-profile.conf", "".join(lines))
    target.write_file("usr/lib/edge-osbuild/image.json", json.dumps(metadata, indent=2, sort_keys=True) + "\n")
    release = target.read_file("usr/lib/os-release").decode()
    kept = [line for line in release.splitlines() if not line.startswith("IMAGE_")]
    identity = [f"IMAGE_ID={profile.name}", f"IMAGE_VERSION={profile.version}"]
    target.write_file("usr/lib/os-release", "\n".join([*kept, *identity]) + "\n")
    # systemd sets a clock that is before this file's time to it (systemd(1)); `clamp_times` dates the file.
    target.write_file("usr/lib/clock-epoch", "")


def move_state_out(target: ImageRoot) -> None:
    """Move what changes at run time out of the root; systemd-tmpfiles makes /var again on an empty data partition."""
    for link, place in STATEFUL.items():
        target.remove_path(link)
        target.make_link(link, "../" * link.count("/") + place)
    for link, place in IMAGE_STATE.items():
        if target.status(link):
            target.rename(link, place)
    target.write_file("usr/lib/tmpfiles.d/00-edge-var.conf", tmpfiles_lines(target))
    for folder in ("var", "boot", "tmp", "run", "dev"):
        target.empty_folder(folder)
    for folder in ("proc", "sys", "efi"):
        target.make_folder(folder)
    target.write_file("etc/machine-id", "")


def tmpfiles_lines(target: ImageRoot) -> str:
    """Lines of tmpfiles.d(5) for every folder and link below /var."""
    users, groups = id_names(target.read_file("etc/passwd")), id_names(target.read_file("etc/group"))
    lines = ["# Made by the build: the folders of /var that packages and overlays brought.\n"]
    for folder in STATEFUL.values():
        mode = "0700" if folder == "var/roothome" else "0755"
        lines.append(f"d /{folder} {mode} root root -\n")
    for link, place in IMAGE_STATE.items():
        if target.status(place):
            lines.append(f"L+ /{link} - - - - /{place}\n")
    for found in walk_folder(target.path / "var") if target.is_folder("var") else ():
        name, status = quote_tmpfiles(f"/var/{found.path}"), found.status
        if found.is_link:
            lines.append(f"L {name} - - - - {escaped(found.leads_to(), ' ' + BACKSLASH)}\n")
        elif found.is_folder:
            owner, group = users.get(status.st_uid, str(status.st_uid)), groups.get(status.st_gid, str(status.st_gid))
            lines.append(f"d {name} {status.st_mode & 0o7777:04o} {owner} {group} -\n")
    return "".join(lines)


def id_names(table: bytes) -> dict[int, str]:
    """Number -> name, of passwd(5) or group(5)."""
    rows = (line.split(":") for line in table.decode().splitlines())
    return {int(row[2]): row[0] for row in rows}


def escaped(text: str, special: str) -> str:
    """`text` with `%`, which begins a specifier, doubled, and with C escapes for what is special or not printable."""
    return "".join(
        chr(byte) if 0x20 <= byte < 0x7F and chr(byte) not in special else f"\\x{byte:02x}"
        for byte in os.fsencode(text.replace("%", "%%"))
    )


def quote_tmpfiles(path: str) -> str:
    """A path as tmpfiles.d(5) reads it."""
    text = escaped(path, '\\"')
    return f'"{text}"' if re.search(r"[ \\']", text) else text


def clamp_times(target: Path, epoch: int) -> None:
    """Set every time after `epoch`, or that the composition of the root has set to 0, to `epoch`.

    Times of packaged files stay as their packages have them.
    """
    for base, folders, files in os.walk(target, topdown=False):
        for name in [*folders, *files]:
            path = os.path.join(base, name)  # noqa: PTH118 - 20,000 of them
            if not 0 < os.lstat(path).st_mtime <= epoch:
                os.utime(path, (epoch, epoch), follow_symlinks=False)
    os.utime(target, (epoch, epoch))


def check_replaces(overlay: Path, path: PurePosixPath, target: ImageRoot, *, folder: bool) -> None:
    """Raises `Error` if `path`, a `folder` or not, would replace a folder or a link to one of the image so far."""
    status = target.status(path)
    if status is None:
        return
    if folder and stat.S_ISLNK(status.st_mode):
        leads = target.leads_to(path)
        hint = f"put its files where the link leads: {leads}"
        raise overlay_error(overlay, path, f"is a folder here and a link to {leads} in the image", hint)
    if not folder and stat.S_ISDIR(status.st_mode):
        raise overlay_error(overlay, path, "would replace a folder of the image", FOLDER)
