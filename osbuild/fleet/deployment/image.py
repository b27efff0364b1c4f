"""The container image of the update server, as an OCI archive (OCI image-spec)."""

import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osbuild.fleet.deployment.libraries import FOLDER, compile_libraries, install_libraries, install_program
from osbuild.host import log
from osbuild.host.architecture import Architecture
from osbuild.host.cache import Cache
from osbuild.host.output import publish_files
from osbuild.host.scratch import temporary_folder
from osbuild.kubernetes.image_archive import EPOCH, INDEXES, MANIFEST, USER, encode_json, tar_member
from osbuild.sandbox.tools_tree import unlocked_tools_tree

PACKAGES = ("openssl", "python3")
NAME = "localhost/edge-osbuild-serve:latest"
PORT = 8443
DATA, KEYRING = "data", "etc/edge-osbuild/keyring.pem"
LAYER = "application/vnd.oci.image.layer.v1.tar"
# Not needed to run the server; the state of dpkg is kept for scanners.
LEFT_OUT = (
    "boot", "dev", "home", "media", "mnt", "proc", "root", "run", "srv", "sys", "tmp", "var/cache", "var/lib/apt",
    "var/log", "etc/machine-id",
)  # fmt: skip
BITS = 0o1777  # a server needs no program that changes its user
CHUNK = 2**20
ENTRYPOINT = (
    "/usr/bin/python3", "-m", "osbuild", "serve", "--data", f"/{DATA}", "--listen", f"0.0.0.0:{PORT}", "--keyring",
    f"/{KEYRING}", "--log-format", "json",
)  # fmt: skip


@dataclass(frozen=True)
class _Blob:
    """A file of an OCI archive: its digest, and its contents in memory or in a file."""

    digest: str
    size: int
    source: bytes | Path

    @property
    def path(self) -> str:
        return f"blobs/sha256/{self.digest}"

    def describe(self, media: str) -> dict[str, Any]:
        """Return the descriptor of the blob."""
        return {"mediaType": media, "digest": f"sha256:{self.digest}", "size": self.size}


def make_server_image(path: Path, keyring: bytes, cache: Cache) -> None:
    """Write an image that runs the server with its data in /data, and accepts bundles of `keyring`. Raises `Error`.

    The same versions of packages and libraries give the same bytes.
    """
    tools = unlocked_tools_tree(cache, "server-image", PACKAGES, "server image")
    with temporary_folder("image") as scratch:
        libraries, layer = scratch / "libraries", scratch / "layer.tar"
        libraries.mkdir()
        with log.step("Python libraries"):
            install_libraries(libraries)
            install_program(libraries)
            compile_libraries(libraries, tools)
        with log.step("container image"):
            with tarfile.open(layer, "w", format=tarfile.PAX_FORMAT) as archive:
                add_tree(archive, tools.root, Path())
                add_folders(archive, keyring)
                add_tree(archive, libraries, FOLDER)
            write_archive(scratch / "image.tar", read_blob(layer))
        publish_files(path.parent, {path.name: scratch / "image.tar"})


def add_tree(archive: tarfile.TarFile, root: Path, prefix: Path) -> None:
    """Add all files below `root`, owned by root, without what a server does not need."""
    for path in sorted_files(root):
        name = prefix / path.relative_to(root)
        status = path.lstat()
        entry = tar_member(str(name), 0, status.st_mode & BITS)
        # The byte code of Debian's modules names the time of their source.
        entry.mtime = int(status.st_mtime) if not prefix.parts and path.suffix == ".py" else 0
        if stat.S_ISLNK(status.st_mode):
            entry.type, entry.linkname = tarfile.SYMTYPE, str(path.readlink())
            archive.addfile(entry)
        elif stat.S_ISDIR(status.st_mode):
            entry.type = tarfile.DIRTYPE
            archive.addfile(entry)
        elif stat.S_ISREG(status.st_mode):
            entry.size = status.st_size
            with path.open("rb") as file:
                archive.addfile(entry, file)


def sorted_files(root: Path) -> Iterator[Path]:
    """Yield files and folders below `root` in a fixed order, without those of `LEFT_OUT`."""
    for folder, folders, files in os.walk(root):
        parent = Path(folder)
        folders[:] = sorted(name for name in folders if str((parent / name).relative_to(root)) not in LEFT_OUT)
        names = [name for name in files if str((parent / name).relative_to(root)) not in LEFT_OUT]
        yield from (parent / name for name in sorted([*folders, *names]))


def add_folders(archive: tarfile.TarFile, keyring: bytes) -> None:
    """Add the folders that a container mounts something on, the keyring, and the folder of this program."""
    user = int(USER.partition(":")[0])
    for name in ("dev", "proc", "sys", "run", "tmp", DATA, str(Path(KEYRING).parent), str(FOLDER)):
        entry = tar_member(name, 0, {"tmp": 0o1777, DATA: 0o700}.get(name, 0o755), tarfile.DIRTYPE)
        if name == DATA:
            entry.uid = entry.gid = user
        archive.addfile(entry)
    archive.addfile(tar_member(KEYRING, len(keyring), 0o644), io.BytesIO(keyring))


def read_blob(path: Path) -> _Blob:
    """Return a file as a blob."""
    with path.open("rb") as file:
        return _Blob(hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size, path)


def write_archive(path: Path, layer: _Blob) -> None:
    """Write an archive with one layer. Raises `OSError`."""

    def blob(document: object) -> _Blob:
        content = encode_json(document)
        return _Blob(hashlib.sha256(content).hexdigest(), len(content), content)

    platform = {**Architecture.native().to_oci(), "os": "linux"}
    settings = {
        "Entrypoint": list(ENTRYPOINT),
        "Env": [f"PYTHONPATH=/{FOLDER}", "PYTHONUNBUFFERED=1", f"HOME=/{DATA}", f"TMPDIR=/{DATA}", "PATH=/usr/bin"],
        "User": USER,
        "WorkingDir": f"/{DATA}",
        "ExposedPorts": {f"{PORT}/tcp": {}},
        "Volumes": {f"/{DATA}": {}},
    }
    config = blob(
        {
            **platform,
            "created": EPOCH,
            "config": settings,
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.digest}"]},
            "history": [{"created": EPOCH, "created_by": "edge-osbuild"}],
        }
    )
    described = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config.describe("application/vnd.oci.image.config.v1+json"),
        "layers": [layer.describe(LAYER)],
    }
    manifest = blob(described)
    annotations = {"io.containerd.image.name": NAME, "org.opencontainers.image.ref.name": NAME.rpartition(":")[2]}
    entry = {**manifest.describe(MANIFEST), "platform": platform, "annotations": annotations}
    index = {"schemaVersion": 2, "mediaType": INDEXES[0], "manifests": [entry]}
    docker = [{"Config": config.path, "RepoTags": [NAME], "Layers": [layer.path]}]
    top = {"index.json": index, "manifest.json": docker, "oci-layout": {"imageLayoutVersion": "1.0.0"}}
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("blobs", "blobs/sha256"):
            archive.addfile(tar_member(name, 0, 0o755, tarfile.DIRTYPE))
        for item in sorted((layer, config, manifest), key=lambda item: item.digest):
            member = tar_member(item.path, item.size, 0o644)
            if isinstance(item.source, bytes):
                archive.addfile(member, io.BytesIO(item.source))
            else:
                with item.source.open("rb") as file:
                    archive.addfile(member, file)
        for name, document in top.items():
            content = encode_json(document)
            archive.addfile(tar_member(name, len(content), 0o644), io.BytesIO(content))
