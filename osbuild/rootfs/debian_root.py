"""The root file system of Debian packages, made by diskimage-builder, before overlays and components are added."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from osbuild.host import log
from osbuild.host.architecture import Architecture
from osbuild.host.cache import content_key, tree_digest
from osbuild.host.paths import ELEMENTS
from osbuild.inputs.apt_sources import SUITE
from osbuild.inputs.context import BuildContext
from osbuild.inputs.debian import Deb, PackageArchive, make_repository
from osbuild.inputs.wheels import DISKIMAGE_BUILDER
from osbuild.rootfs import element_search
from osbuild.rootfs.installer.install import EMULATING
from osbuild.sandbox.tools_tree import ToolsTree

INSTALLER = Path(__file__).parent / "installer"
# The packages of every image. Profiles add more; `osbuild.kubernetes.distribution` names those of Kubernetes.
PACKAGES = (
    "bash", "ca-certificates", "cloud-init", "cryptsetup-bin", "dbus", "e2fsprogs", "iproute2", "iputils-ping",
    "kmod", "less", "libnss-myhostname", "mount", "netplan-generator", "openssh-server", "procps", "python3", "rauc",
    "rauc-service", "sudo", "systemd", "systemd-boot", "systemd-cryptsetup", "systemd-repart", "systemd-resolved",
    "systemd-sysv", "systemd-timesyncd", "tzdata", "udev", "util-linux", "zstd",
)  # fmt: skip


@dataclass(frozen=True)
class RootfsRecipe:
    """The inputs of a root. `tools` is the content key of the tools that make the root.

    `own` is a folder with the element `edge-debian`, `elements` are folders of elements to run after it.
    """

    packages: tuple[Deb, ...]
    architecture: Architecture
    tools: str
    elements: tuple[Path, ...] = ()
    own: Path = ELEMENTS

    @property
    def key(self) -> str:
        """Content key of the root, of the elements as they are now."""
        code = [
            tree_digest(self.own, code=True),
            tree_digest(INSTALLER, code=True),
            [pin.sha256 for pin in DISKIMAGE_BUILDER],
        ]
        packages = [deb.sha256 for deb in self.packages]
        return content_key("rootfs", packages, code, element_search.elements_key(self.elements), self.tools)


def make_rootfs(context: BuildContext, tools: ToolsTree, dib: Sequence[Path], recipe: RootfsRecipe, key: str) -> Path:
    """A tar of the root, from the cache if it is there under `key`, which was the recipe's.

    `dib` are diskimage-builder and its dependencies, unpacked. Like the elements, they can run programs of the
    recipe's architecture. Raises `Error` if an element is changed meanwhile.
    """
    cache, debs, architecture = context.cache, recipe.packages, recipe.architecture
    search = element_search.search_path(recipe.elements, recipe.own)

    def make(path: Path) -> None:
        with log.step(f"root file system: {len(debs)} packages"):
            PackageArchive(cache, architecture).download_packages(debs, folder=context.downloads)
            packages = make_repository(cache, debs)
            logfile = path.parent / "dib.log"
            tools.run_command(
                [
                    *emulation_command(architecture, key), "python3", "-c", "import sys; sys.argv[0] = "
                    "'disk-image-create'\n"
                    "from diskimage_builder.disk_image_create import main; main()",
                    "-a", architecture.to_debian(), "-t", "tar", "-n", "-o", path.parent / "root",
                    "edge-debian", *(element.name for element in recipe.elements),
                ],
                [path.parent, packages],
                cwd=path.parent,
                env={
                    "PYTHONPATH": ":".join(map(str, (*dib, INSTALLER.parents[2]))), "TMPDIR": str(path.parent),
                    "PYTHONPYCACHEPREFIX": "/tmp/pycache",
                    "ELEMENTS_PATH": ":".join(map(str, search)),
                    "EDGE_REPOSITORY": str(packages), "EDGE_SUITE": SUITE,
                    "EDGE_ARCHITECTURE": architecture.to_debian(), "SOURCE_DATE_EPOCH": "0", "USER": "root",
                },
                read_only_binds=[(path, str(path)) for path in (INSTALLER, *dib, *search)],
                logfile=logfile,
            )  # fmt: skip
            if EMULATING in logfile.read_text(errors="replace"):
                log.warn(f"{EMULATING}, which is slow; please report this with the packages of the profile")
            (path.parent / "root.tar").rename(path)

    return cache.get_or_make("rootfs", key, make, again=lambda: recipe.key)


def emulation_command(architecture: Architecture, key: str) -> list[str]:
    """Return the command prefix that lets a command and its chroots run programs of a foreign `architecture`.

    Empty if `architecture` is the host's.
    """
    # The emulator's name contains the root's key. Builds of several roots do not interfere, and making the same root
    # again replaces the registration of a killed build.
    if architecture == Architecture.native():
        return []
    return ["python3", "-m", "osbuild.rootfs.installer.emulation", architecture.to_debian(), f"edge-osbuild-{key[:16]}"]
