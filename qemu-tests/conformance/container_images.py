"""The container images of the tests, made of real programs and files.

Their names are those of Kubernetes' own images, in a registry that does not exist. What they contain:

- agnhost: the program of the module k8s.io/kubernetes in a root of Debian packages, those of its own Dockerfile (curl,
  dig, nc, ss, iperf, bash, ipcs), with the users and the second name that the Dockerfile adds.
- glibc-dns-testing: that root alone. The Dockerfile asks for Debian with dig.
- kitten, nautilus: agnhost with the files of the module that their Dockerfiles add.
- nonroot: that root, with the user of the Dockerfile.
- busybox: Debian's busybox-static, with a link for each of its programs but `sh`, which is Debian's bash-static: the
  shell of Debian's busybox drops variables such as `data-1`, whose names a shell cannot use, before it runs a program.
- pause: the program of the container image that keeps the namespaces of pods on our nodes.
"""

import io
import json
import subprocess
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from conformance import suite_programs
from conformance.specs import REGISTRY
from osbuild.host import log
from osbuild.host.architecture import Architecture
from osbuild.host.cache import Cache, content_key, file_digest
from osbuild.kubernetes import image_archive, upstream_programs
from osbuild.kubernetes.image_archive import SmallImage, tar_member
from osbuild.sandbox.tools_tree import unlocked_tools_tree

# Tags are those for which the tests ask (test/utils/image/manifest.go of the module).
NAMES = tuple(
    f"{REGISTRY}/{name}"
    for name in (
        "agnhost:2.63.0", "glibc-dns-testing:2.0.0", "kitten:1.8", "nautilus:1.8", "nonroot:1.5", "busybox:1.37.0-1",
        "pause:3.10.2",
    )
)  # fmt: skip
PACKAGES = (
    "bash", "bash-static", "bind9-dnsutils", "busybox-static", "curl", "iperf", "iproute2", "netcat-openbsd",
    "util-linux",
)  # fmt: skip
ENVIRONMENT = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",)
# Of a Debian root, what a container does not need or gets from its runtime.
LEFT_OUT = ("dev", "proc", "sys", "run", "boot", "usr/share", "var/lib/apt", "var/lib/dpkg", "var/cache", "var/log")
# What the Dockerfile of agnhost adds to the base image's files.
USERS = b"user-defined-in-image:x:1000:1000::/home/user-defined-in-image:/bin/sh\n"
GROUPS = b"user-defined-in-image:x:1000:\ngroup-defined-in-image:x:50000:user-defined-in-image\n"
PORTS = ("80/tcp", "8080/tcp", "8081/tcp", "9376/tcp", "5000/tcp")


def pack_root(root: Path, links: Mapping[str, str]) -> bytes:
    """Return a reproducible tar archive of a Debian root, with links that it lacks."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(root.rglob("*")):
            name = path.relative_to(root).as_posix()
            if f"{name}/".startswith(tuple(f"{part}/" for part in LEFT_OUT)):
                continue
            entry = archive.gettarinfo(path, name)
            entry.mtime, entry.uname, entry.gname = 0, "", ""
            if entry.isreg():
                with path.open("rb") as file:
                    archive.addfile(entry, file)
            elif entry.isdir() or entry.issym() or entry.islnk():
                archive.addfile(entry)
        archive.addfile(tar_member("run", 0, 0o755, tarfile.DIRTYPE))
        for name, target in sorted(links.items()):
            if not (root / name).exists() and not (root / name).is_symlink():
                entry = tar_member(name, 0, 0o777, tarfile.SYMTYPE)
                entry.linkname = target
                archive.addfile(entry)
    return output.getvalue()


def pack_folder(name: str, mode: int) -> bytes:
    """Return a tar archive of an empty folder."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(tar_member(name, 0, mode, tarfile.DIRTYPE))
    return output.getvalue()


def list_applets(busybox: Path) -> list[str]:
    """Return the names of the programs in busybox."""
    return subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True).stdout.split()


@dataclass(frozen=True)
class ImageInputs:
    """What the images are made of: a Debian root, the programs, and test/images of the module."""

    root: Path
    agnhost: Path
    pause: Path
    folder: Path

    @cached_property
    def base(self) -> bytes:
        """The layer with the Debian root."""
        return pack_root(self.root, {f"usr/bin/{name}": "busybox" for name in list_applets(self.busybox)})

    @property
    def busybox(self) -> Path:
        return self.root / "usr/bin/busybox"

    def file(self, name: str, mode: int = 0o644) -> tuple[bytes, int]:
        return (self.folder / name).read_bytes(), mode

    def make_agnhost(self) -> SmallImage:
        porter = {name: self.file(f"agnhost/porter/{name}") for name in ("localhost.crt", "localhost.key")}
        accounts = {
            f"etc/{name}": ((self.root / "etc" / name).read_bytes() + added, 0o644)
            for name, added in (("passwd", USERS), ("group", GROUPS))
        }
        return SmallImage(
            name="agnhost", lower=[self.base], entrypoint=["/agnhost"], command=["pause"], ports=PORTS, user="0:0",
            files={**porter, **accounts, "agnhost": (self.agnhost.read_bytes(), 0o755), "uploads/.keep": (b"", 0o644)},
            links={"agnhost-2": "agnhost"}, environment=ENVIRONMENT,
        )  # fmt: skip

    def make_pet(self, name: str) -> SmallImage:
        """Return kitten or nautilus."""
        image = self.make_agnhost()
        added = {file: self.file(f"{name}/html/{file}") for file in (f"{name}.jpg", "data.json")}
        upper = image_archive.make_tar(image.files, image.links)
        return replace(image, lower=[self.base, upper], files=added, links={}, command=["test-webserver"])

    def make_debian(self, user: str = "0:0") -> SmallImage:
        return SmallImage(name="debian", lower=[self.base], files={}, entrypoint=[], command=["bash"], user=user,
                          environment=ENVIRONMENT)  # fmt: skip

    def make_busybox(self) -> SmallImage:
        files = {
            "bin/busybox": (self.busybox.read_bytes(), 0o755),
            "bin/sh": ((self.root / "usr/bin/bash-static").read_bytes(), 0o755),
            "etc/passwd": ((self.root / "etc/passwd").read_bytes(), 0o644),
            "etc/group": ((self.root / "etc/group").read_bytes(), 0o644),
        }
        links = {f"bin/{name}": "busybox" for name in list_applets(self.busybox) if f"bin/{name}" not in files}
        return SmallImage(name="busybox", lower=[pack_folder("tmp", 0o1777)], files=files, links=links, entrypoint=[],
                          command=["sh"], user="0:0", environment=ENVIRONMENT)  # fmt: skip

    def make_pause(self) -> SmallImage:
        return SmallImage(name="pause", files={"pause": (self.pause.read_bytes(), 0o755)}, entrypoint=["/pause"])


MAKERS: dict[str, Callable[[ImageInputs], SmallImage]] = {
    "agnhost": ImageInputs.make_agnhost,
    "glibc-dns-testing": ImageInputs.make_debian,
    "kitten": lambda inputs: inputs.make_pet("kitten"),
    "nautilus": lambda inputs: inputs.make_pet("nautilus"),
    "nonroot": lambda inputs: inputs.make_debian("1234"),
    "busybox": ImageInputs.make_busybox,
    "pause": ImageInputs.make_pause,
}


def join_archives(archives: Sequence[Path], output: Path) -> None:
    """Write one archive with the images of all `archives` (image_archive.write_image), each layer once."""
    manifests: list[dict[str, Any]] = []
    seen = {"index.json", "manifest.json"}
    with tarfile.open(output, "w", format=tarfile.PAX_FORMAT) as joined:
        for path in archives:
            with tarfile.open(path) as archive:
                index = archive.extractfile("index.json")
                assert index is not None
                top = json.load(index)
                manifests += top["manifests"]
                for entry in archive:
                    if entry.name not in seen:
                        seen.add(entry.name)
                        joined.addfile(entry, archive.extractfile(entry) if entry.isreg() else None)
        text = image_archive.encode_json({**top, "manifests": manifests})
        joined.addfile(tar_member("index.json", len(text), 0o644), io.BytesIO(text))


def make_images(cache: Cache) -> Path:
    """Return an archive with the images of `NAMES`, from the cache or built. Raises `Error`."""
    architecture = Architecture.native()
    inputs = ImageInputs(
        unlocked_tools_tree(cache, "conformance", PACKAGES, "root of the container image agnhost").root,
        suite_programs.build_test_program(suite_programs.AGNHOST, cache),
        upstream_programs.build_small_program("pause", architecture, cache),
        cache.folder("go") / f"mod/k8s.io/kubernetes@{suite_programs.VERSION}/test/images",
    )
    digests = [file_digest(path) for path in (Path(__file__), inputs.agnhost, inputs.pause)]

    def make(output: Path) -> None:
        with log.step(f"{len(NAMES)} container images of the tests"):
            archives: list[Path] = []
            for number, name in enumerate(NAMES):
                maker = MAKERS[name.rpartition("/")[2].partition(":")[0]]
                archives.append(output.with_name(f"{output.name}-{number}"))
                image_archive.write_image(archives[-1], replace(maker(inputs), name=name), architecture)
            join_archives(archives, output)
            for path in archives:
                path.unlink()

    return cache.get_or_make("conformance", content_key(digests, inputs.root.name), make)
