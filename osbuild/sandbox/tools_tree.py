"""Tools trees: Debian roots of the host's architecture in which every build step and QEMU run.

The host needs only Python, mmdebstrap and bubblewrap, and results do not depend on the host's versions.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from osbuild.host import log
from osbuild.host.architecture import Architecture
from osbuild.host.cache import Cache, content_key
from osbuild.host.modes import UMASK
from osbuild.host.run import Argument, CommandError, run_command, run_contained
from osbuild.inputs.apt_sources import SUITE
from osbuild.inputs.debian import Deb, PackageArchive, make_repository

# Two trees, so that the root file system is made while the tools tree for the later steps is still being created.
ROOT_TOOLS = (
    "e2fsprogs", "mount", "procps", "python3", "python3-jsonschema", "python3-yaml", "sudo", "util-linux",
)  # fmt: skip
# Also needed for roots of another architecture: the emulator, and native versions of the programs in which maintainer
# scripts spend most of their time (osbuild.rootfs.installer.native_programs).
FOREIGN_ROOT_TOOLS = ("libtext-charwidth-perl", "openssh-client", "openssl", "perl", "qemu-user", "systemd", "udev")
IMAGE_TOOLS = (
    "cpio", "cryptsetup-bin", "dosfstools", "erofs-utils", "kmod", "mtools", "python3", "systemd", "systemd-repart",
    "systemd-ukify", "xz-utils", "zstd",
)  # fmt: skip
# Both ARM architectures share a tree, because their emulators are in one Debian package.
ARM_EMULATOR = ("qemu-system-arm", "qemu-utils", "qemu-efi-aarch64", "qemu-efi-arm")
EMULATOR = {
    Architecture.x86_64: ("qemu-system-x86", "qemu-utils", "ovmf"),
    Architecture.arm64: ARM_EMULATOR,
    Architecture.armv7: ARM_EMULATOR,
}
# Emulators in qemu-user for processors that no image is built for. Excluding them saves 400 MiB.
UNUSED = (
    "aarch64_be", "alpha", "armeb", "hexagon", "hppa", "i386", "loongarch64", "m68k", "microblaze*", "mips*", "or1k",
    "ppc*", "riscv*", "s390x", "sh4*", "sparc*", "xtensa*",
)  # fmt: skip
# The only environment variables that are passed on to programs in the tree: network settings and the terminal type.
PASSED = {"http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "TERM"}


@dataclass(frozen=True)
class ToolsTree:
    """A root folder in which programs run, each in its own sandbox (bwrap(1))."""

    root: Path

    def wrap_command(
        self,
        command: Sequence[Argument],
        binds: Sequence[Path] = (),
        *,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        read_only_binds: Sequence[tuple[Path, str]] = (),
    ) -> list[str]:
        """Return the command line that runs `command` in the tree.

        `binds` are host paths that are visible at the same path, writable; `read_only_binds` are pairs of a host path
        and the path in the sandbox. Mounts, processes and files below /tmp end with the command.
        """
        arguments = [
            "bwrap", "--die-with-parent", "--unshare-pid", "--unshare-ipc", "--unshare-uts",
            "--hostname", "localhost", "--cap-add", "ALL",
            "--tmpfs", "/", "--dev-bind", "/dev", "/dev", "--proc", "/proc", "--dev-bind", "/sys", "/sys",
            "--tmpfs", "/run", "--dir", "/tmp", "--dir", "/var/tmp",
            # Passed variables are inherited, not set: a proxy's URL may contain a password, and every user can read
            # command lines.
            *(argument for name in sorted(os.environ.keys() - PASSED) for argument in ("--unsetenv", name)),
            "--setenv", "PATH", "/usr/sbin:/usr/bin", "--setenv", "HOME", "/tmp", "--setenv", "LC_ALL", "C.UTF-8",
        ]  # fmt: skip
        mount_points = [PurePosixPath(path) for path in [*map(str, binds), *(inside for _, inside in read_only_binds)]]
        for path in sorted(self.root.iterdir()):
            if path.is_symlink():
                arguments += ["--symlink", str(path.readlink()), f"/{path.name}"]
            elif path.name in {"etc", "usr"}:
                arguments += self._read_only(PurePosixPath("/", path.name), mount_points)
        arguments += self._read_only(PurePosixPath("/var/lib"), mount_points)
        for path, inside in read_only_binds:
            arguments += ["--ro-bind", str(path), inside]
        for path in binds:
            arguments += ["--dev-bind", str(path), str(path)]
        for name, value in (env or {}).items():
            arguments += ["--setenv", name, value]
        return [*arguments, "--chdir", str(cwd or "/"), "--", *(str(argument) for argument in command)]

    def _read_only(self, folder: PurePosixPath, mount_points: Sequence[PurePosixPath]) -> list[str]:
        """Return arguments that show `folder` read-only. Mount points that the tree lacks can be created in it."""
        source = self.root / folder.relative_to("/")
        missing = [
            path for path in mount_points
            if path != folder and path.is_relative_to(folder) and not (self.root / path.relative_to("/")).exists()
        ]  # fmt: skip
        if not missing:
            return ["--ro-bind", str(source), str(folder)]
        # bwrap can't create a mount point in a read-only mount, so each item of the folder is mounted on its own.
        arguments = ["--dir", str(folder)]
        for path in sorted(source.iterdir()):
            if path.is_symlink():
                arguments += ["--symlink", str(path.readlink()), str(folder / path.name)]
            elif path.is_dir():
                arguments += self._read_only(folder / path.name, missing)
            else:
                arguments += ["--ro-bind", str(path), str(folder / path.name)]
        return arguments

    def run_command(
        self,
        command: Sequence[Argument],
        binds: Sequence[Path] = (),
        *,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        read_only_binds: Sequence[tuple[Path, str]] = (),
        logfile: Path | None = None,
        input: str | None = None,
    ) -> str:
        """Like `osbuild.host.run.run_command`, in the tree and with a fixed umask."""
        wrapped = self.wrap_command(command, binds, cwd=cwd, env=env, read_only_binds=read_only_binds)
        try:
            return run_command(wrapped, logfile=logfile, input=input, umask=UMASK)
        except CommandError as error:  # it names the command itself, without what the sandbox puts before it
            raise CommandError([str(word) for word in command], error.returncode, error.output, error.hint) from None


def make_tools_tree(
    cache: Cache, debs: Sequence[Deb], title: str = "tools tree", *, folder: Path | None = None
) -> ToolsTree:
    """Return the tree of exactly `debs`, from the cache if possible. `folder` is searched before the network.

    Raises `Error`.
    """

    def make(path: Path) -> None:
        with log.step(f"{title}: {len(debs)} packages"):
            PackageArchive(cache, Architecture.native()).download_packages(debs, folder=folder)
            install_tools(cache, debs, path)

    return ToolsTree(cache.get_or_make("tools", tools_tree_key(debs), make))


def unlocked_tools_tree(cache: Cache, kind: str, packages: Sequence[str], title: str) -> ToolsTree:
    """Return a tree with `packages` that no lock pins. Raises `Error`.

    Its versions are chosen once and stored in `cache` under `kind`. Creating it needs root and the network, and takes a
    minute.
    """

    def resolve(path: Path) -> None:
        with log.step(f"choosing packages: {title}"):
            archive = PackageArchive(cache, Architecture.native())
            archive.update_index()
            path.write_text(json.dumps([asdict(deb) for deb in archive.resolve_packages(packages)]))

    versions = cache.get_or_make(kind, content_key(SUITE, Architecture.native(), packages), resolve)
    return make_tools_tree(cache, [Deb(**entry) for entry in json.loads(versions.read_text())], title=title)


def tools_tree_key(debs: Sequence[Deb]) -> str:
    """Return the content key of a tools tree."""
    return content_key("tools", [deb.sha256 for deb in debs])


def install_tools(cache: Cache, debs: Sequence[Deb], target: Path) -> None:
    """Unpack and configure `debs`, which include all their dependencies, with the host's mmdebstrap."""
    source = f"deb [trusted=yes] copy:{quote(str(make_repository(cache, debs)))} ./"
    names = ",".join(deb.name for deb in debs)
    excluded = [f"/usr/share/{name}/*" for name in ("doc", "man", "locale", "info")]
    excluded += [f"/usr/bin/qemu-{name}" for name in UNUSED]
    command: list[Argument] = [
        "mmdebstrap", "--variant=custom", "--mode=root", f"--include={names}",
        "--dpkgopt=force-unsafe-io", *(f"--dpkgopt=path-exclude={pattern}" for pattern in excluded),
        SUITE, target, source,
    ]  # fmt: skip
    run_contained(command, env={**os.environ, "SOURCE_DATE_EPOCH": "0", "TMPDIR": str(target.parent)}, umask=UMASK)


def root_tools(architecture: Architecture) -> tuple[str, ...]:
    """Return the packages of the tools tree that makes root file systems of `architecture`."""
    return ROOT_TOOLS if architecture == Architecture.native() else (*ROOT_TOOLS, *FOREIGN_ROOT_TOOLS)


def emulator_packages(architectures: Sequence[Architecture]) -> list[str]:
    """Return the packages of a tools tree that boots images of `architectures`."""
    return sorted({name for architecture in architectures for name in EMULATOR[architecture]})
