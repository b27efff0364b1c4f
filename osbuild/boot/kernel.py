"""The kernel. Its package is unpacked, not installed, so that no maintainer script runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from osbuild.config.scalars import find_nearest
from osbuild.host import log
from osbuild.host.architecture import Architecture
from osbuild.host.cache import content_key
from osbuild.inputs.context import BuildContext
from osbuild.inputs.debian import Deb, PackageArchive, stored_path
from osbuild.sandbox.tools_tree import ToolsTree
from osbuild.shared.errors import Error

# Debian's metapackages. The kernel package that each one depends on is unpacked.
METAPACKAGES = {
    (Architecture.x86_64, "cloud"): "linux-image-cloud-amd64",
    (Architecture.x86_64, "generic"): "linux-image-amd64",
    (Architecture.arm64, "cloud"): "linux-image-cloud-arm64",
    (Architecture.arm64, "generic"): "linux-image-arm64",
    (Architecture.armv7, "cloud"): "linux-image-armmp",
    (Architecture.armv7, "generic"): "linux-image-armmp",
}
# A headless node never needs these modules; they are a third of the generic kernel's.
EXCLUDED_MODULES = ("sound", "drivers/gpu", "drivers/media", "drivers/staging", "drivers/infiniband", "drivers/isdn")


@dataclass(frozen=True)
class Kernel:
    """`root` contains `vmlinuz`, `tree/usr/lib/modules/RELEASE` and, on ARM, the device trees in `trees`."""

    root: Path
    release: str

    @property
    def image(self) -> Path:
        """The compressed kernel."""
        return self.root / "vmlinuz"

    @property
    def file_tree(self) -> Path:
        """The file tree that is copied over the root file system."""
        return self.root / "tree"

    @property
    def modules(self) -> Path:
        """The folder of this release's modules."""
        return self.file_tree / "usr/lib/modules" / self.release

    def device_tree(self, name: str) -> Path:
        """Return the file of the device tree `name`, a path in the kernel's package. Raises `Error` if missing."""
        path = self.root / "trees" / name
        if not path.is_file():
            hint = "name one of the kernel's, such as `broadcom/bcm2837-rpi-3-b.dtb`"
            raise Error(f"kernel {self.release} has no device tree {name}", where="device_trees", hint=hint)
        return path

    def check_modules(self, names: Sequence[str]) -> None:
        """Raise `Error` for a module that this kernel does not have, because systemd-modules-load would fail."""
        lines = [
            line
            for name in ("modules.dep", "modules.builtin")
            for line in (self.modules / name).read_text().splitlines()
        ]
        modules = {Path(line.partition(":")[0]).name.partition(".ko")[0].replace("-", "_") for line in lines}
        listed = (line.split() for line in (self.modules / "modules.alias").read_text().splitlines())
        aliases = [arguments[1] for arguments in listed if arguments[:1] == ["alias"]]
        built_in = (self.modules / "modules.builtin.modinfo").read_bytes().decode(errors="replace").split("\0")
        aliases += [entry.partition(".alias=")[2] for entry in built_in if ".alias=" in entry]
        for name in names:
            plain = name.replace("-", "_")
            if plain not in modules and not any(fnmatchcase(name, alias) for alias in aliases):
                suggestion = find_nearest(plain, modules, cutoff=0.8)
                hint = f"did you mean `{suggestion}`?" if suggestion else "remove it, or try `kernel.flavour: generic`"
                raise Error(f"kernel {self.release} has no module {name}", where="kernel.modules", hint=hint)


def kernel_key(deb: Deb) -> str:
    """Return the content key of an unpacked kernel."""
    return content_key("kernel-3", deb.sha256, EXCLUDED_MODULES)


def unpack_kernel(context: BuildContext, tools: ToolsTree, deb: Deb, architecture: Architecture) -> Kernel:
    """Return the kernel in the package `deb`, with an index of its modules. It is cached. Raises `Error`."""
    cache = context.cache

    def make(path: Path) -> None:
        with log.step(f"kernel: {deb.name} {deb.version}"):
            PackageArchive(cache, architecture).download_packages([deb], folder=context.downloads)
            path.mkdir()
            package = stored_path(cache, deb)
            tools.run_command(["dpkg-deb", "--extract", package, path / "package"], [path, package])
            (path / "tree/usr/lib").mkdir(parents=True)
            modules = [*(path / "package").glob("usr/lib/modules"), *(path / "package").glob("lib/modules")]
            images = sorted((path / "package/boot").glob("vmlinuz-*"))
            if not modules or not images:
                raise Error(f"package {deb.name} does not contain a kernel", hint="check `kernel` in the profile")
            modules[0].rename(path / "tree/usr/lib/modules")
            images[0].rename(path / "vmlinuz")
            for device_trees in (path / "package/usr/lib").glob("linux-image-*"):
                device_trees.rename(path / "trees")
            release = images[0].name.removeprefix("vmlinuz-")
            base = path / "tree/usr/lib/modules" / release
            tools.run_command(
                ["rm", "-rf", path / "package", *(base / "kernel" / name for name in EXCLUDED_MODULES)], [path]
            )
            for link in ("build", "source"):
                (base / link).unlink(missing_ok=True)
            # depmod needs lib/modules in its base folder
            (path / "tree/lib").symlink_to("usr/lib")
            tools.run_command(["depmod", "-b", path / "tree", release], [path])
            (path / "tree/lib").unlink()
            (path / "release").write_text(release)

    root = cache.get_or_make(
        "kernel", content_key(kernel_key(deb), tools.root.name), make
    )  # depmod is part of the tools tree
    return Kernel(root, (root / "release").read_text())
