"""Kubernetes as a component of an image: a file tree that is copied over the root, for every distribution."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osbuild.config.profile import KubernetesSettings
from osbuild.host import paths
from osbuild.host.architecture import Architecture
from osbuild.host.cache import content_key, file_digest
from osbuild.kubernetes import image_archive, plain_archive, upstream_programs
from osbuild.kubernetes.distribution import ComponentSources, Distribution
from osbuild.kubernetes.go_toolchain import sources_key
from osbuild.kubernetes.registry import DISTRIBUTIONS
from osbuild.kubernetes.tree_files import LIB, install_file, unused_path, write_public

PAUSE = "localhost/edge-pause:1"
DEMO = "localhost/edge-demo:1"
CONTAINERD = Path(__file__).with_name("containerd.toml")
FORMAT = 3  # increased when the same inputs result in another file tree


@dataclass(frozen=True)
class Component:
    """A part of an image. `file_tree` is copied over the root; `metadata` is added to the build manifest."""

    name: str
    version: str
    file_tree: Path
    metadata: dict[str, Any]


def build_component(kubernetes: KubernetesSettings, architecture: Architecture, sources: ComponentSources) -> Component:
    """Build the component for the distribution and version in the settings, which must have a role.

    Raises `Error`, and `Unavailable` if the release can't be downloaded.
    """
    distribution, base = DISTRIBUTIONS[kubernetes.distribution], sources.base
    program = distribution.prepare(kubernetes, architecture, sources)
    archives = [image_archive.inspect_archive(path, architecture) for path in _images(kubernetes, base)]

    def make(tree: Path) -> None:
        (tree / "usr/bin").mkdir(parents=True)
        program.install(tree)
        node = upstream_programs.build_small_program("node", architecture, sources.cache, sources.downloads)
        install_file(node, tree / LIB / "edge-node", 0o755)
        _containerd(tree, distribution)
        own = _own_images(tree, kubernetes, architecture, sources)
        _bake(tree, [*own, *program.write_images(tree / LIB / "images")], archives)
        for path in _manifests(kubernetes, base):
            install_file(path, unused_path(tree / LIB / "manifests" / path.name), 0o644)
        for path in _charts(kubernetes, base):
            install_file(path, unused_path(tree / LIB / "charts" / path.name), 0o644)

    def content() -> str:
        return component_key(kubernetes, architecture, base=base)

    tree = sources.cache.get_or_make("components", content(), make, again=content)
    listed = {path.stem: path.read_text().split() for path in sorted((tree / LIB / "images").glob("*.names"))}
    return Component("kubernetes", program.metadata["version"], tree, {**program.metadata, "images": listed})


def component_key(kubernetes: KubernetesSettings, architecture: Architecture, *, base: Path = Path()) -> str:
    """The content key of the tree that `build_component` would make, without making it."""
    distribution = DISTRIBUTIONS[kubernetes.distribution]
    small_programs = [sources_key(upstream_programs.SMALL)]
    inputs = (*_images(kubernetes, base), *_manifests(kubernetes, base), *_charts(kubernetes, base))
    files = [[path.name, file_digest(path)] for path in inputs]
    sources = (__file__, image_archive.__file__, plain_archive.__file__, CONTAINERD)
    code = [file_digest(Path(source)) for source in sources]
    program = distribution.key(kubernetes, architecture)
    return content_key(FORMAT, distribution.name, program, small_programs, files, code, kubernetes.images, architecture)


def _images(kubernetes: KubernetesSettings, base: Path) -> Iterator[Path]:
    return (paths.resolve_named(name, base) for name in kubernetes.images if name != "demo")


def _manifests(kubernetes: KubernetesSettings, base: Path) -> Iterator[Path]:
    return (paths.resolve_named(name, base) for name in kubernetes.manifests)


def _charts(kubernetes: KubernetesSettings, base: Path) -> Iterator[Path]:
    return (paths.resolve_named(name, base) for name in kubernetes.charts)


def _containerd(tree: Path, distribution: Distribution) -> None:
    plugins, configuration = distribution.network
    text = CONTAINERD.read_text()
    values = {"PAUSE": PAUSE, "CNI_PLUGINS": plugins, "CNI_CONFIGURATION": configuration}
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    target = tree / "etc/containerd/config.toml"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    target.chmod(0o644)


def _own_images(
    tree: Path, kubernetes: KubernetesSettings, architecture: Architecture, sources: ComponentSources
) -> list[image_archive.ImageArchive]:
    """Store the images with our own programs."""
    target = tree / LIB / "images"
    target.mkdir(parents=True)
    own_images = [("pause", PAUSE, ())] + ([("demo", DEMO, ("8080/tcp",))] if "demo" in kubernetes.images else [])
    stored = []
    for name, tag, ports in own_images:
        program = upstream_programs.build_small_program(name, architecture, sources.cache, sources.downloads)
        files = {name: (program.read_bytes(), 0o755)}
        image = image_archive.SmallImage(name=tag, files=files, entrypoint=[f"/{name}"], ports=ports)
        stored.append(image_archive.write_image(target / f"{name}.tar", image, architecture))
    return stored


def _bake(tree: Path, stored: list[image_archive.ImageArchive], archives: list[image_archive.ImageArchive]) -> None:
    """Store the profile's archives, and the names and digest of each in the folder that `import-images` reads."""
    target = tree / LIB / "images"
    for archive in archives:
        stored_path = unused_path(target / f"{plain_archive.find_stem(archive.path.name)}.tar")
        plain_archive.write_plain_archive(archive.path, stored_path)
        stored.append(image_archive.ImageArchive(stored_path, archive.names, archive.architectures, archive.digest))
    for archive in stored:
        archive.path.chmod(0o644)
        stem = archive.path.name.removesuffix(".tar")
        write_public(target / f"{stem}.names", "".join(f"{name}\n" for name in archive.names))
        write_public(target / f"{stem}.sha256", f"{file_digest(archive.path)}\n")
