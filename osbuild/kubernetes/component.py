"""Kubernetes as a component of an image: a file tree laid over the root, for either distribution."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from osbuild.config import upstream_versions
from osbuild.config.profile import KubernetesSettings
from osbuild.host import log, paths
from osbuild.host.architecture import Architecture
from osbuild.host.cache import Cache, content_key, file_digest
from osbuild.inputs.context import BuildContext
from osbuild.inputs.download import Unavailable
from osbuild.kubernetes import image_archive, k3s_payload, k3s_release, upstream_programs
from osbuild.kubernetes.go_toolchain import sources_key
from osbuild.sandbox.tools_tree import ToolsTree
from osbuild.shared.errors import Error

# What a node needs of Debian. nftables is kube-proxy's, iptables is for the CNI plugins.
PACKAGES: tuple[str, ...] = ("containerd", "iptables", "nftables", "runc")

PAUSE = "localhost/edge-pause:1"
DEMO = "localhost/edge-demo:1"
LIB = Path("usr/lib/edge-osbuild")
CONTAINERD = Path(__file__).parent / "containerd.toml"
TEMPLATE = CONTAINERD.with_name("cni.conflist.tmpl")
COMMAND = CONTAINERD.with_name("k3s.sh")
K3S = Path("usr/lib/k3s/bin")  # K3s' inner program and its CNI plugins (flannel among them)
# Folders of CNI plugins and of their configuration, by distribution.
NETWORK = {
    "upstream": ("/usr/lib/cni", "/etc/cni/net.d"),
    "k3s": (f"/{K3S}", "/var/lib/kubernetes/agent/etc/cni/net.d"),
}
# K3s' own paths, for its commands that read neither the configuration file nor K3S_DATA_DIR.
K3S_TMPFILES = """\
d /var/lib/rancher 0755
L /var/lib/rancher/k3s - - - - /var/lib/kubernetes
"""
FORMAT = 2  # raised when the tree changes though none of its inputs did


@dataclass(frozen=True)
class Component:
    """A part of an image: `tree` is laid over the root; `facts` go into the manifest."""

    name: str
    version: str
    tree: Path
    facts: dict[str, Any]


@dataclass(frozen=True)
class ComponentSources:
    """Where a build takes its inputs from.

    `base` is the profile's folder, from which paths of container images and manifests start; `tools` makes the tree
    with the programs that unpack K3s.
    """

    context: BuildContext
    tools: Callable[[], ToolsTree]
    base: Path = Path()

    @property
    def cache(self) -> Cache:
        return self.context.cache

    @property
    def downloads(self) -> Path | None:
        return self.context.downloads


def distribution_packages(distribution: str) -> tuple[str, ...]:
    """Debian's packages that a node of a distribution needs. K3s brings its own CNI plugins."""
    return PACKAGES if distribution == "k3s" else (*PACKAGES, "containernetworking-plugins")


def build_component(kubernetes: KubernetesSettings, architecture: Architecture, sources: ComponentSources) -> Component:
    """Make the component that the profile asks for. It must have a role.

    Raises `Error`, and `Unavailable` if the K3s release cannot be had and the profile names nothing instead.
    """
    if kubernetes.distribution == "upstream":
        return _upstream(kubernetes, architecture, sources, {})
    try:
        chosen = k3s_release.find_release(kubernetes, architecture, sources.downloads)
        program = k3s_release.download_binary(chosen, sources.cache, sources.downloads)
    except Unavailable as error:
        if kubernetes.if_unavailable != "upstream":
            raise
        used = upstream_versions.find_release(None)
        log.warn(f"{error.message}\n  this image gets the upstream distribution, Kubernetes {used.version}, instead")
        metadata = {
            "requested": f"k3s {k3s_release.wanted_version(kubernetes)}",
            "used": f"upstream {used.version}",
            "because": " ".join(error.message.split()),
        }
        return _upstream(replace(kubernetes, version=None), architecture, sources, metadata)
    programs = k3s_payload.unpack_payload(program, chosen.sha256, architecture, sources.cache, sources.tools())
    return _k3s(kubernetes, chosen, programs, architecture, sources)


def component_key(
    kubernetes: KubernetesSettings,
    architecture: Architecture,
    *,
    distribution: str | None = None,
    base: Path = Path(),
) -> str:
    """The content key of the tree that `build_component` would make, without making it.

    `distribution` is what it turned out to be, if other than the profile says (`facts["distribution"]`).
    """
    actual = distribution or kubernetes.distribution
    fallback = actual != kubernetes.distribution
    if actual == "k3s":
        program: Any = [k3s_release.find_release(kubernetes, architecture).sha256, k3s_payload.FORMAT]
    else:
        chosen = upstream_versions.find_release(None if fallback else kubernetes.version)
        program = [upstream_programs.binary_key(chosen, architecture)]
    small = [sources_key(upstream_programs.SMALL)]
    files = [[path.name, file_digest(path)] for path in (*_images(kubernetes, base), *_manifests(kubernetes, base))]
    code = [
        file_digest(Path(__file__)),
        file_digest(Path(image_archive.__file__)),
        file_digest(Path(k3s_payload.__file__)),
        file_digest(CONTAINERD),
        file_digest(TEMPLATE),
        file_digest(COMMAND),
    ]
    return content_key(FORMAT, actual, program, small, files, code, kubernetes.images, architecture)


def _images(kubernetes: KubernetesSettings, base: Path) -> Iterator[Path]:
    return (paths.resolve_named(name, base) for name in kubernetes.images if name != "demo")


def _manifests(kubernetes: KubernetesSettings, base: Path) -> Iterator[Path]:
    return (paths.resolve_named(name, base) for name in kubernetes.manifests)


def _upstream(
    kubernetes: KubernetesSettings, architecture: Architecture, sources: ComponentSources, metadata: dict[str, Any]
) -> Component:
    chosen = upstream_versions.find_release(kubernetes.version)
    metadata = {"distribution": "upstream", "kine": chosen.kine, "version": chosen.version, **metadata}

    def programs(tree: Path) -> None:
        binary = upstream_programs.build_binary(chosen, architecture, sources.cache, sources.downloads)
        install_file(binary, tree / "usr/bin/edge-kubernetes", 0o755)
        install_file(
            upstream_programs.build_small_program("pki", architecture, sources.cache, sources.downloads),
            tree / LIB / "edge-pki",
            0o755,
        )
        for name in upstream_programs.PROGRAMS:
            (tree / "usr/bin" / name).symlink_to("edge-kubernetes")

    return _component(kubernetes, programs, architecture, sources, metadata)


def _k3s(
    kubernetes: KubernetesSettings,
    chosen: k3s_release.K3sRelease,
    unpacked: Path,
    architecture: Architecture,
    sources: ComponentSources,
) -> Component:
    def programs(tree: Path) -> None:
        k3s_payload.install_payload(unpacked, tree / K3S)
        install_file(COMMAND, tree / "usr/bin/k3s", 0o755)
        for name in ("kubectl", "crictl"):
            (tree / "usr/bin" / name).symlink_to("../lib/k3s/bin/k3s")
        (tree / "usr/lib/tmpfiles.d").mkdir()
        write_public(tree / "usr/lib/tmpfiles.d/edge-k3s.conf", K3S_TMPFILES)
        # K3s proves by the password in this folder that a node is the one that once had its name.
        (tree / LIB / "persist.d").mkdir(parents=True)
        write_public(tree / LIB / "persist.d/k3s", "/etc/rancher/node\n")

    metadata = {"distribution": "k3s", "sha256": chosen.sha256, "version": chosen.version}
    return _component(kubernetes, programs, architecture, sources, metadata)


def _component(
    kubernetes: KubernetesSettings,
    programs: Callable[[Path], None],
    architecture: Architecture,
    sources: ComponentSources,
    metadata: dict[str, Any],
) -> Component:
    distribution, base = metadata["distribution"], sources.base
    archives = [image_archive.inspect_archive(path, architecture) for path in _images(kubernetes, base)]

    def make(tree: Path) -> None:
        (tree / "usr/bin").mkdir(parents=True)
        programs(tree)
        install_file(
            upstream_programs.build_small_program("node", architecture, sources.cache, sources.downloads),
            tree / LIB / "edge-node",
            0o755,
        )
        _containerd(tree, distribution)
        _bake(tree, kubernetes, archives, architecture, sources)
        for path in _manifests(kubernetes, base):
            install_file(path, claim_path(tree / LIB / "manifests" / path.name), 0o644)

    def content() -> str:
        return component_key(kubernetes, architecture, distribution=distribution, base=base)

    tree = sources.cache.get_or_make("components", content(), make, again=content)
    listed = {path.stem: path.read_text().split() for path in sorted((tree / LIB / "images").glob("*.names"))}
    return Component("kubernetes", metadata["version"], tree, {**metadata, "images": listed})


def _containerd(tree: Path, distribution: str) -> None:
    plugins, configuration = NETWORK[distribution]
    text = CONTAINERD.read_text()
    # An agent of the upstream distribution gets its range of pod addresses later, and containerd fills it in here.
    template = f'conf_template = "/{LIB}/{TEMPLATE.name}"' if distribution == "upstream" else ""
    values = {"PAUSE": PAUSE, "CNI_PLUGINS": plugins, "CNI_CONFIGURATION": configuration, "CNI_TEMPLATE": template}
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    target = tree / "etc/containerd/config.toml"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    target.chmod(0o644)
    if distribution == "upstream":
        install_file(TEMPLATE, tree / LIB / TEMPLATE.name, 0o644)


def _bake(
    tree: Path,
    kubernetes: KubernetesSettings,
    archives: list[image_archive.ImageArchive],
    architecture: Architecture,
    sources: ComponentSources,
) -> None:
    """Put container images, what they are called and the digest of each archive where `import-images` finds them."""
    target = tree / LIB / "images"
    target.mkdir(parents=True)
    ours = [("pause", PAUSE, ())] + ([("demo", DEMO, ("8080/tcp",))] if "demo" in kubernetes.images else [])
    made = []
    for name, tag, ports in ours:
        program = upstream_programs.build_small_program(name, architecture, sources.cache, sources.downloads)
        files = {name: (program.read_bytes(), 0o755)}
        path = target / f"{name}.tar"
        made.append(image_archive.write_image(path, tag, files, architecture, entrypoint=[f"/{name}"], ports=ports))
    for archive in archives:
        place = claim_path(target / f"{archive.path.name.removesuffix('.gz').removesuffix('.tar')}.tar")
        install_file(archive.path, place, 0o644)
        made.append(image_archive.ImageArchive(place, archive.names, archive.architectures, archive.digest))
    for archive in made:
        archive.path.chmod(0o644)
        write_public(archive.path.with_suffix(".names"), "".join(f"{name}\n" for name in archive.names))
        write_public(archive.path.with_suffix(".sha256"), f"{file_digest(archive.path)}\n")


def write_public(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o644)


def claim_path(path: Path) -> Path:
    """`path`, which two inputs must not share. Raises `Error` if one already has it."""
    if path.exists():
        raise Error(f"two inputs are called {path.name}", where="kubernetes", hint="give one of them another name")
    return path


def install_file(source: Path, target: Path, mode: int) -> None:
    """Copy a file, sharing its blocks where the file system can (ioctl_ficlonerange(2), which copy_file_range uses)."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(mode)
