"""The add-ons of the upstream distribution: container images compiled from Go modules, and manifests.

The programs of most add-ons are one static binary in one image, because they share most of their code: on the disk, in
the image and in memory it is there once.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osbuild.host import log
from osbuild.host.architecture import Architecture
from osbuild.host.cache import Cache, content_key, file_digest
from osbuild.kubernetes import addon_sources, go_toolchain, image_archive
from osbuild.kubernetes.addon_sources import ModuleCopy, complete_sources
from osbuild.kubernetes.tree_files import LIB, write_public

ADDONS = Path(__file__).with_name("addons")
MANIFESTS = ADDONS / "manifests"


@dataclass(frozen=True)
class AddonImage:
    """An image with one program, the `package` of the Go module in a folder of addons/.

    `variable` stands for the image's name in manifests, `links` are further names of the program. `addon` is an add-on
    that uses the image though its manifest does not name it. `copy` is a module whose packages are not all compiled.
    """

    name: str
    variable: str
    package: str = "."
    links: Sequence[str] = ()
    addon: str | None = None
    copy: ModuleCopy | None = None

    @property
    def module_folders(self) -> list[str]:
        """The folders with a `go.mod` and a `go.sum`, below `ADDONS`."""
        return [self.name, *([f"{self.name}/{self.copy.folder}"] if self.copy else [])]

    def program_key(self, architecture: Architecture) -> str:
        """Return the content key of the program."""
        sources = go_toolchain.sources_key(ADDONS / self.name)
        copy = [self.copy.module, *self.copy.left_out, file_digest(Path(addon_sources.__file__))] if self.copy else []
        return content_key("addon", self.name, self.package, sources, go_toolchain.toolchain_key(), architecture, *copy)

    def tag(self, architecture: Architecture) -> str:
        """Return the image's name. It changes with the content, so that each slot finds its own after a rollback."""
        return f"localhost/edge-{self.name}:{content_key(self.program_key(architecture), list(self.links))[:12]}"


SYSTEM = AddonImage("system", "SYSTEM_IMAGE", links=("volume-setup", "volume-teardown"))
LOCAL_PATH = AddonImage("local-path", "LOCAL_PATH_IMAGE", "github.com/rancher/local-path-provisioner")
HELM = AddonImage("helm", "HELM_IMAGE", addon="helm-controller")
# lego, which Traefik uses for certificates, has the programs of 200 providers of DNS, far more than all the rest.
LEGO = ModuleCopy("lego", "github.com/go-acme/lego/v5", left_out=("providers", "cmd", "e2e", "main.go"))
TRAEFIK = AddonImage("traefik", "TRAEFIK_IMAGE", copy=LEGO)
IMAGES = (SYSTEM, LOCAL_PATH, HELM, TRAEFIK)


def find_manifests(disabled: Sequence[str]) -> list[Path]:
    """Return the manifests of the add-ons, without those that are `disabled` (K3s' names of its components)."""
    return [path for path in sorted(MANIFESTS.glob("*.yaml")) if path.stem not in disabled]


def find_images(disabled: Sequence[str]) -> Iterator[AddonImage]:
    """Yield the images that the add-ons use."""
    manifests = {path.stem: path.read_text() for path in find_manifests(disabled)}
    for image in IMAGES:
        if image.addon in manifests or any(f"%{{{image.variable}}}%" in text for text in manifests.values()):
            yield image


def addons_key(disabled: Sequence[str], architecture: Architecture) -> list[Any]:
    """Return the part of a content key for all that `install_manifests` and `write_images` write."""
    manifests = [[path.name, file_digest(path)] for path in find_manifests(disabled)]
    return [manifests, [image.tag(architecture) for image in find_images(disabled)], file_digest(Path(__file__))]


def install_manifests(tree: Path, disabled: Sequence[str], architecture: Architecture) -> None:
    """Write the manifests with the names of the images, and a list of the names.

    The edge agent fills in the cluster's addresses.
    """
    folder = tree / LIB / "addons"
    folder.mkdir(parents=True)
    for path in find_manifests(disabled):
        text = path.read_text()
        for image in IMAGES:
            text = text.replace(f"%{{{image.variable}}}%", image.tag(architecture))
        write_public(folder / path.name, text)
    names = {image.variable: image.tag(architecture) for image in find_images(disabled)}
    write_public(folder / "images.json", json.dumps(names, indent=2) + "\n")


def build_program(image: AddonImage, architecture: Architecture, cache: Cache, folder: Path | None = None) -> Path:
    """Return the program of an image, from the cache or built. Raises `Error`."""

    def make(path: Path) -> None:
        with log.step(f"compiling the add-ons' program edge-{image.name} for {architecture}"):
            sources = ADDONS / image.name
            if image.copy:
                sources = path.with_name("sources")
                complete_sources(ADDONS / image.name, image.copy, sources, cache, folder=folder)
            program = go_toolchain.GoProgram(sources, image.package)
            go_toolchain.build_program(program, path, architecture, cache, folder=folder)

    return cache.get_or_make("kubernetes", image.program_key(architecture), make)


def write_image(path: Path, image: AddonImage, architecture: Architecture, program: Path) -> image_archive.ImageArchive:
    """Write an image with its program to `path`. Raises `OSError`."""
    name = f"edge-{image.name}"
    content = image_archive.SmallImage(
        name=image.tag(architecture),
        files={name: (program.read_bytes(), 0o755)},
        entrypoint=[f"/{name}"],
        links={link: name for link in image.links},
    )
    return image_archive.write_image(path, content, architecture)
