"""Kubernetes as a component of an image: a file tree laid over the root, for either distribution."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osbuild import log, paths
from osbuild.arch import Architecture
from osbuild.cache import Cache, content_key, file_digest
from osbuild.errors import Error
from osbuild.fetch import Unavailable
from osbuild.kubernetes import containers, k3s, upstream
from osbuild.kubernetes.toolchain import sources_key
from osbuild.profile.model import Kubernetes

# What a node needs of Debian. nftables is kube-proxy's, iptables that of the CNI plugins (and a dependency of theirs).
PACKAGES: tuple[str, ...] = ("containerd", "containernetworking-plugins", "iptables", "nftables", "runc")

PAUSE = "localhost/edge-pause:1"
DEMO = "localhost/edge-demo:1"
LIB = Path("usr/lib/edge-osbuild")
CONTAINERD = Path(__file__).parent / "containerd.toml"
TEMPLATE = CONTAINERD.with_name("cni.conflist.tmpl")
# Folders of CNI plugins and of their configuration, by distribution: K3s brings its own plugins (flannel among them).
NETWORK = {
    "upstream": ("/usr/lib/cni", "/etc/cni/net.d"),
    "k3s": ("/var/lib/kubernetes/data/cni", "/var/lib/kubernetes/agent/etc/cni/net.d"),
}
FORMAT = 1  # raised when the tree changes though none of its inputs did


@dataclass(frozen=True)
class Component:
    """A part of an image: `tree` is laid over the root; `facts` go into the manifest."""

    name: str
    version: str
    tree: Path
    facts: dict[str, Any]


def component(
    kubernetes: Kubernetes,
    architecture: Architecture,
    cache: Cache,
    *,
    folder: Path | None = None,
    base: Path = Path(),
) -> Component:
    """Make the component that the profile asks for. It must have a role.

    `folder` holds files for a build without a network; `base` is the profile's folder, from which paths of container
    images and manifests start. Raises `Error`, and `Unavailable` where the K3s release cannot be had and the profile
    names nothing instead.
    """
    if kubernetes.distribution == "upstream":
        return _upstream(kubernetes, kubernetes.version, architecture, cache, folder, base, {})
    chosen = k3s.release(kubernetes.version, architecture)
    try:
        program = k3s.binary(chosen, cache, folder)
    except Unavailable as error:
        if kubernetes.if_unavailable != "upstream":
            raise
        used = upstream.release(None)
        log.warn(f"{error.message}\n  this image gets the upstream distribution, Kubernetes {used.version}, instead")
        facts = {
            "requested": f"k3s {chosen.version}",
            "used": f"upstream {used.version}",
            "because": " ".join(error.message.split()),
        }
        return _upstream(kubernetes, None, architecture, cache, folder, base, facts)
    return _k3s(kubernetes, chosen, program, architecture, cache, folder, base)


def key(
    kubernetes: Kubernetes,
    architecture: Architecture,
    *,
    distribution: str | None = None,
    base: Path = Path(),
) -> str:
    """The content key of the tree that `component` would make, without making it.

    `distribution` is what it turned out to be, if other than the profile says (`facts["distribution"]`).
    """
    actual = distribution or kubernetes.distribution
    fallback = actual != kubernetes.distribution
    if actual == "k3s":
        program: Any = k3s.release(kubernetes.version, architecture).sha256
    else:
        chosen = upstream.release(None if fallback else kubernetes.version)
        program = [upstream.key(chosen, architecture)]
    small = [sources_key(upstream.SMALL)]
    files = [[path.name, file_digest(path)] for path in (*_images(kubernetes, base), *_manifests(kubernetes, base))]
    code = [
        file_digest(Path(__file__)),
        file_digest(Path(containers.__file__)),
        file_digest(CONTAINERD),
        file_digest(TEMPLATE),
    ]
    return content_key(FORMAT, actual, program, small, files, code, kubernetes.images, architecture)


def _images(kubernetes: Kubernetes, base: Path) -> Iterator[Path]:
    return (paths.named(name, base) for name in kubernetes.images if name != "demo")


def _manifests(kubernetes: Kubernetes, base: Path) -> Iterator[Path]:
    return (paths.named(name, base) for name in kubernetes.manifests)


def _upstream(
    kubernetes: Kubernetes,
    version: str | None,
    architecture: Architecture,
    cache: Cache,
    folder: Path | None,
    base: Path,
    facts: dict[str, Any],
) -> Component:
    chosen = upstream.release(version)
    facts = {"distribution": "upstream", "kine": chosen.kine, **facts}

    def programs(tree: Path) -> None:
        put(upstream.binary(chosen, architecture, cache, folder), tree / "usr/bin/edge-kubernetes", 0o755)
        put(upstream.small("pki", architecture, cache, folder), tree / LIB / "edge-pki", 0o755)
        for name in upstream.PROGRAMS:
            (tree / "usr/bin" / name).symlink_to("edge-kubernetes")

    return _component(kubernetes, chosen.version, programs, architecture, cache, folder, base, facts)


def _k3s(
    kubernetes: Kubernetes,
    chosen: k3s.Release,
    program: Path,
    architecture: Architecture,
    cache: Cache,
    folder: Path | None,
    base: Path,
) -> Component:
    def programs(tree: Path) -> None:
        put(program, tree / "usr/bin/k3s", 0o755)
        for name in ("kubectl", "crictl"):
            (tree / "usr/bin" / name).symlink_to("k3s")

    facts = {"distribution": "k3s", "sha256": chosen.sha256}
    return _component(kubernetes, chosen.version, programs, architecture, cache, folder, base, facts)


def _component(
    kubernetes: Kubernetes,
    version: str,
    programs: Callable[[Path], None],
    architecture: Architecture,
    cache: Cache,
    folder: Path | None,
    base: Path,
    facts: dict[str, Any],
) -> Component:
    distribution = facts["distribution"]
    archives = [containers.inspect(path, architecture) for path in _images(kubernetes, base)]

    def make(tree: Path) -> None:
        (tree / "usr/bin").mkdir(parents=True)
        programs(tree)
        _containerd(tree, distribution)
        _bake(tree, kubernetes, archives, architecture, cache, folder)
        for path in _manifests(kubernetes, base):
            put(path, unused(tree / LIB / "manifests" / path.name), 0o644)

    tree = cache.entry("components", key(kubernetes, architecture, distribution=distribution, base=base), make)
    listed = {path.stem: path.read_text().split() for path in sorted((tree / LIB / "images").glob("*.names"))}
    return Component("kubernetes", version, tree, {**facts, "version": version, "images": listed})


def _containerd(tree: Path, distribution: str) -> None:
    plugins, configuration = NETWORK[distribution]
    text = CONTAINERD.read_text()
    # An agent of the upstream distribution gets its range of pod addresses later, and containerd fills it in here.
    template = f'conf_template = "/{LIB}/{TEMPLATE.name}"' if distribution == "upstream" else ""
    values = {"PAUSE": PAUSE, "CNI_PLUGINS": plugins, "CNI_CONFIGURATION": configuration, "CNI_TEMPLATE": template}
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    target = tree / "etc/containerd/config.toml"
    target.parent.mkdir(parents=True)
    target.write_text(text)
    target.chmod(0o644)
    if distribution == "upstream":
        put(TEMPLATE, tree / LIB / TEMPLATE.name, 0o644)


def _bake(
    tree: Path,
    kubernetes: Kubernetes,
    archives: list[containers.Archive],
    architecture: Architecture,
    cache: Cache,
    folder: Path | None,
) -> None:
    """Put container images, what they are called and the digest of each archive where `import-images` finds them."""
    target = tree / LIB / "images"
    target.mkdir(parents=True)
    ours = [("pause", PAUSE, ())] + ([("demo", DEMO, ("8080/tcp",))] if "demo" in kubernetes.images else [])
    made = []
    for name, tag, ports in ours:
        files = {name: (upstream.small(name, architecture, cache, folder).read_bytes(), 0o755)}
        path = target / f"{name}.tar"
        made.append(containers.write_image(path, tag, files, architecture, entrypoint=[f"/{name}"], ports=ports))
    for archive in archives:
        place = unused(target / f"{archive.path.name.removesuffix('.gz').removesuffix('.tar')}.tar")
        put(archive.path, place, 0o644)
        made.append(containers.Archive(place, archive.names, archive.architectures, archive.digest))
    for archive in made:
        archive.path.chmod(0o644)
        write(archive.path.with_suffix(".names"), "".join(f"{name}\n" for name in archive.names))
        write(archive.path.with_suffix(".sha256"), f"{file_digest(archive.path)}\n")


def write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o644)


def unused(path: Path) -> Path:
    """`path`, which two inputs must not share. Raises `Error` if one already has it."""
    if path.exists():
        raise Error(f"two inputs are called {path.name}", where="kubernetes", hint="give one of them another name")
    return path


def put(source: Path, target: Path, mode: int) -> None:
    """Copy a file, sharing its blocks where the file system can (ioctl_ficlonerange(2), which copy_file_range uses)."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(mode)
