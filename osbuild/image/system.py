"""The system: Debian's root, the kernel's modules, overlays and components laid together, ready to be read-only."""

import glob
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from osbuild.agentapp import build_agent
from osbuild.profile.model import Profile
from osbuild.tools import Tree

# Moved to the data partition: link on the root -> folder below /var.
STATEFUL = {
    "home": "var/home",
    "root": "var/roothome",
    "opt": "var/opt",
    "srv": "var/srv",
    "mnt": "var/mnt",
    "usr/local": "var/usrlocal",
}
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
    unpack(target, tools, root_tar, trees, epoch)
    for path, data in files.items():
        write(target / path, data.decode())
    build_agent(target / "usr/bin/edge-agent", tools.run)
    settings(target, profile, facts)
    if kubernetes:
        write(target / "usr/lib/edge-osbuild/kubernetes.json", json.dumps(kubernetes, indent=2, sort_keys=True) + "\n")
    tools.run(["systemd-sysusers", f"--root={target}"], [target])
    tools.run(["systemctl", f"--root={target}", "--preset-mode=full", "preset-all"], [target])
    read_only(target)
    clamp(target, epoch)


def compose_base(target: Path, *, tools: Tree, root_tar: Path, trees: Sequence[Path], epoch: int) -> None:
    """Make the folder `target` what `compose` starts from: what images that add different things have in common."""
    unpack(target, tools, root_tar, trees, epoch)
    read_only(target)
    clamp(target, epoch)


def unpack(target: Path, tools: Tree, root_tar: Path, trees: Sequence[Path], epoch: int) -> None:
    """Unpack `root_tar` to the new folder `target`, and lay `trees` over it."""
    target.mkdir()
    tools.run(
        ["tar", "--extract", "--numeric-owner", "--xattrs", f"--file={root_tar}", f"--directory={target}"],
        [root_tar, target],
    )
    # diskimage-builder puts resolv.conf back after the last of our hooks, so this has the time of day.
    os.utime(target / "etc", (0, 0))
    for tree in trees:
        lay(tree, target, epoch)


def lay(tree: Path, target: Path, epoch: int) -> None:
    """Copy `tree` over `target`: modes kept, owned by root, dated `epoch`, folders merged, files and links replaced.

    With a Python module its byte code goes: that is never checked against its source (element `edge-debian`).
    """
    for source in sorted(tree.rglob("*")):
        place = target / source.relative_to(tree)
        if source.is_dir() and not source.is_symlink():
            if place.is_symlink() or not place.is_dir():
                place.unlink(missing_ok=True)
                place.mkdir()
                place.chmod(source.stat().st_mode & 0o7777)
            continue
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        if place.suffix == ".py":
            for compiled in place.parent.glob(f"__pycache__/{glob.escape(place.stem)}.*.pyc"):
                compiled.unlink()
        shutil.copy2(source, place, follow_symlinks=False)
        os.chown(place, 0, 0, follow_symlinks=False)
        os.utime(place, (epoch, epoch), follow_symlinks=False)


def write(path: Path, text: str) -> None:
    """Write a file that anyone may read, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o644)


def settings(target: Path, profile: Profile, facts: Mapping[str, Any]) -> None:
    """Write what the profile says about the image itself: modules, sysctls, identity of the image."""
    if profile.kernel.modules:
        write(
            target / "usr/lib/modules-load.d/50-profile.conf", "".join(f"{name}\n" for name in profile.kernel.modules)
        )
    if profile.kernel.sysctls:
        lines = (f"{name} = {value}\n" for name, value in sorted(profile.kernel.sysctls.items()))
        write(target / "usr/lib/sysctl.d/80-profile.conf", "".join(lines))
    write(target / "usr/lib/edge-osbuild/image.json", json.dumps(facts, indent=2, sort_keys=True) + "\n")
    release = target / "usr/lib/os-release"
    kept = [line for line in release.read_text().splitlines() if not line.startswith("IMAGE_")]
    write(release, "\n".join([*kept, f"IMAGE_ID={profile.name}", f"IMAGE_VERSION={profile.version}"]) + "\n")


def read_only(target: Path) -> None:
    """Move what changes at run time out of the root; systemd-tmpfiles makes /var again on an empty data partition."""
    for link, place in STATEFUL.items():
        path = target / link
        shutil.rmtree(path)
        path.symlink_to("../" * link.count("/") + place)
    for link, place in IMAGE_STATE.items():
        if (target / link).exists():
            (target / place).parent.mkdir(parents=True, exist_ok=True)
            (target / link).rename(target / place)
    write(target / "usr/lib/tmpfiles.d/00-edge-var.conf", tmpfiles(target))
    for folder in ("var", "boot", "tmp", "run", "dev"):
        empty(target / folder)
    for folder in ("proc", "sys", "efi"):
        (target / folder).mkdir(exist_ok=True)
    write(target / "etc/machine-id", "")


def tmpfiles(target: Path) -> str:
    """Lines of tmpfiles.d(5) for every folder and link below /var."""
    root = target / "etc"
    users = {int(line.split(":")[2]): line.split(":")[0] for line in (root / "passwd").read_text().splitlines()}
    groups = {int(line.split(":")[2]): line.split(":")[0] for line in (root / "group").read_text().splitlines()}
    lines = ["# Made by the build: the folders of /var that packages and overlays brought.\n"]
    for folder in STATEFUL.values():
        mode = "0700" if folder == "var/roothome" else "0755"
        lines.append(f"d /{folder} {mode} root root -\n")
    for link, place in IMAGE_STATE.items():
        if (target / place).exists():
            lines.append(f"L+ /{link} - - - - /{place}\n")
    for path in sorted((target / "var").rglob("*")):
        name = "/" + str(path.relative_to(target))
        if path.is_symlink():
            lines.append(f"L {name} - - - - {path.readlink()}\n")
        elif path.is_dir():
            facts = path.stat()
            owner, group = users.get(facts.st_uid, str(facts.st_uid)), groups.get(facts.st_gid, str(facts.st_gid))
            lines.append(f"d {name} {facts.st_mode & 0o7777:04o} {owner} {group} -\n")
    return "".join(lines)


def empty(folder: Path) -> None:
    """Delete everything in `folder`."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


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
