"""The system: Debian's root, the kernel's modules, overlays and components laid together, ready to be read-only."""

import fnmatch
import glob
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from osbuild.agentapp import build_agent
from osbuild.errors import Error
from osbuild.image.target import Target
from osbuild.mode import fixed_mode
from osbuild.overlay import check_place, refusal
from osbuild.paths import display
from osbuild.profile.model import Profile
from osbuild.tools import Tree
from osbuild.walk import walk

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


def compose(
    target: Path,
    *,
    tools: Tree,
    root_tar: Path,
    trees: Sequence[Path],
    profile: Profile,
    facts: Mapping[str, Any],
    kubernetes: Mapping[str, Any] | None,
    files: Mapping[Path, bytes],
    epoch: int,
) -> None:
    """Make the folder `target` what the root file system holds.

    `trees` are laid over the root in order, then `files`, path -> contents; `facts` becomes
    `/usr/lib/edge-osbuild/image.json`, `kubernetes` kubernetes.json beside it. No file is left with a time after
    `epoch`, in seconds since 1970, so that the result does not depend on when it was made.
    """
    root = unpack(target, tools, root_tar, trees, epoch)
    for path, data in files.items():
        root.write(path, data)
    agent = target.with_name("edge-agent")
    build_agent(agent, tools.run)
    with agent.open("rb") as file:
        root.copy(file.fileno(), "usr/bin/edge-agent", epoch)
    agent.unlink()
    settings(root, profile, facts)
    if kubernetes:
        root.write("usr/lib/edge-osbuild/kubernetes.json", json.dumps(kubernetes, indent=2, sort_keys=True) + "\n")
    tools.run(["systemd-sysusers", f"--root={target}"], [target])
    tools.run(["systemctl", f"--root={target}", "--preset-mode=full", "preset-all"], [target])
    read_only(root)
    clamp(target, epoch)


def compose_base(target: Path, *, tools: Tree, root_tar: Path, trees: Sequence[Path], epoch: int) -> None:
    """Make the folder `target` what `compose` starts from: what images that add different things have in common."""
    read_only(unpack(target, tools, root_tar, trees, epoch))
    clamp(target, epoch)


def unpack(target: Path, tools: Tree, root_tar: Path, trees: Sequence[Path], epoch: int) -> Target:
    """Unpack `root_tar` to the new folder `target`, and lay `trees` over it."""
    target.mkdir()
    tools.run(
        ["tar", "--extract", "--numeric-owner", "--xattrs", f"--file={root_tar}", f"--directory={target}"],
        [root_tar, target],
    )
    target.chmod(0o755)
    # diskimage-builder puts resolv.conf back after the last of our hooks, so this has the time of day.
    os.utime(target / "etc", (0, 0), follow_symlinks=False)
    root = Target(target)
    for tree in trees:
        lay(tree, root, epoch)
    return root


def lay(tree: Path, target: Target, epoch: int) -> None:
    """Copy `tree` over `target`: owned by root, dated `epoch`, folders merged, files and links replaced.

    Modes are those of `fixed_mode`. Raises `Error` if a folder of the image, or a link to one, would be replaced, or
    if `tree` changes meanwhile.
    """
    try:
        for found in walk(tree):
            check_place(tree, found.path, target, folder=found.is_folder)
            if found.is_folder:
                target.make(found.path, fixed_mode(found.status.st_mode))
            elif found.is_link:
                target.link(found.path, Path(found.leads_to()), epoch)
            elif not found.is_file:
                raise refusal(tree, found.path, "is neither file, folder nor link", "have tmpfiles.d create it")
            else:
                with found.opened() as file:
                    target.copy(file, found.path, epoch)
            if found.path.suffix == ".py":
                drop_bytecode(tree / found.path, found.path, target)
    except OSError as error:
        hint = "do not change it while an image is built; check the mode of its files, and the space that is left"
        message = f"cannot be copied: {error.strerror or error}" + (f": {error.filename}" if error.filename else "")
        raise Error(message, where=f"overlay {display(tree)}", hint=hint) from error


def drop_bytecode(source: Path, path: PurePosixPath, target: Target) -> None:
    """Remove the byte code of the Python module that `source` replaces; it is never checked against its source.

    Byte code that comes with `source` is kept (element `edge-debian`).
    """
    cache = path.parent / "__pycache__"
    if target.is_folder(cache):
        with target.folder(cache) as folder:
            names = fnmatch.filter(os.listdir(folder), f"{glob.escape(path.stem)}.*.pyc")  # noqa: PTH208
        for name in names:
            if not (source.parent / "__pycache__" / name).exists():
                target.remove(cache / name)


def settings(target: Target, profile: Profile, facts: Mapping[str, Any]) -> None:
    """Write what the profile says about the image itself: modules, sysctls, identity of the image."""
    if profile.kernel.modules:
        lines = (f"{name}\n" for name in profile.kernel.modules)
        target.write("usr/lib/modules-load.d/50-profile.conf", "".join(lines))
    if profile.kernel.sysctls:
        lines = (f"{name} = {value}\n" for name, value in sorted(profile.kernel.sysctls.items()))
        target.write("usr/lib/sysctl.d/80-profile.conf", "".join(lines))
    target.write("usr/lib/edge-osbuild/image.json", json.dumps(facts, indent=2, sort_keys=True) + "\n")
    release = target.read("usr/lib/os-release").decode()
    kept = [line for line in release.splitlines() if not line.startswith("IMAGE_")]
    identity = [f"IMAGE_ID={profile.name}", f"IMAGE_VERSION={profile.version}"]
    target.write("usr/lib/os-release", "\n".join([*kept, *identity]) + "\n")
    # systemd sets a clock that is before this file's time to it (systemd(1)); `clamp` dates the file.
    target.write("usr/lib/clock-epoch", "")


def read_only(target: Target) -> None:
    """Move what changes at run time out of the root; systemd-tmpfiles makes /var again on an empty data partition."""
    for link, place in STATEFUL.items():
        target.remove(link)
        target.link(link, "../" * link.count("/") + place)
    for link, place in IMAGE_STATE.items():
        if target.status(link):
            target.rename(link, place)
    target.write("usr/lib/tmpfiles.d/00-edge-var.conf", tmpfiles(target))
    for folder in ("var", "boot", "tmp", "run", "dev"):
        target.empty(folder)
    for folder in ("proc", "sys", "efi"):
        target.make(folder)
    target.write("etc/machine-id", "")


def tmpfiles(target: Target) -> str:
    """Lines of tmpfiles.d(5) for every folder and link below /var."""
    users, groups = names_of(target.read("etc/passwd")), names_of(target.read("etc/group"))
    lines = ["# Made by the build: the folders of /var that packages and overlays brought.\n"]
    for folder in STATEFUL.values():
        mode = "0700" if folder == "var/roothome" else "0755"
        lines.append(f"d /{folder} {mode} root root -\n")
    for link, place in IMAGE_STATE.items():
        if target.status(place):
            lines.append(f"L+ /{link} - - - - /{place}\n")
    for found in walk(target.path / "var") if target.is_folder("var") else ():
        name, status = quoted(f"/var/{found.path}"), found.status
        if found.is_link:
            lines.append(f"L {name} - - - - {escaped(found.leads_to(), ' ' + BACKSLASH)}\n")
        elif found.is_folder:
            owner, group = users.get(status.st_uid, str(status.st_uid)), groups.get(status.st_gid, str(status.st_gid))
            lines.append(f"d {name} {status.st_mode & 0o7777:04o} {owner} {group} -\n")
    return "".join(lines)


def names_of(table: bytes) -> dict[int, str]:
    """Number -> name, of passwd(5) or group(5)."""
    rows = (line.split(":") for line in table.decode().splitlines())
    return {int(row[2]): row[0] for row in rows}


def escaped(text: str, special: str) -> str:
    """`text` with `%`, which begins a specifier, doubled, and with C escapes for what is special or not printable."""
    return "".join(
        chr(byte) if 0x20 <= byte < 0x7F and chr(byte) not in special else f"\\x{byte:02x}"
        for byte in os.fsencode(text.replace("%", "%%"))
    )


def quoted(path: str) -> str:
    """A path as tmpfiles.d(5) reads it."""
    text = escaped(path, '\\"')
    return f'"{text}"' if re.search(r"[ \\']", text) else text


def clamp(target: Path, epoch: int) -> None:
    """Set every time after `epoch`, or that the composition of the root has set to 0, to `epoch`.

    Times of packaged files stay as their packages have them.
    """
    for base, folders, files in os.walk(target, topdown=False):
        for name in [*folders, *files]:
            path = os.path.join(base, name)  # noqa: PTH118 - 20,000 of them
            if not 0 < os.lstat(path).st_mtime <= epoch:
                os.utime(path, (epoch, epoch), follow_symlinks=False)
    os.utime(target, (epoch, epoch))
