"""Container images without a registry: writing archives of our own, and looking into those that users bring.

Written are OCI image layouts in a tar (OCI image-spec, image-layout.md) that also carry docker's `manifest.json`, so
that `ctr images import`, `docker load` and `skopeo` all take them. The same input gives the same bytes: fixed times and
owners, and layers that are not compressed, since a compressor's output changes with its version.
"""

import hashlib
import io
import json
import lzma
import re
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from osbuild.host.architecture import Architecture
from osbuild.shared.errors import Error
from osbuild.shared.json_text import parse_json

EPOCH = "1970-01-01T00:00:00Z"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
LARGEST = 16 * 2**30  # bytes of an archive once it is unpacked
DOCUMENT = 4 * 2**20  # bytes of a JSON file in it
CHUNK = 2**20
HOW = "save one with `docker save`, `skopeo copy … oci-archive:FILE` or `ctr images export`"


@dataclass(frozen=True)
class ImageArchive:
    """What an image archive holds; `digest` is that of its first manifest or index, None in docker's older form."""

    path: Path
    names: tuple[str, ...]
    architectures: tuple[str, ...]
    digest: str | None


def tar_member(name: str, size: int, mode: int, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    """A tar entry without anything of this host or this moment in it."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.type, entry.mtime = size, mode, kind, 0
    return entry


def make_tar(files: Mapping[str, tuple[bytes, int]]) -> bytes:
    """A tar of `files`, name to content and mode, with the folders that they need."""
    folders = {str(parent) for name in files for parent in Path(name).parents} - {"."}
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in sorted(folders):
            archive.addfile(tar_member(name, 0, 0o755, tarfile.DIRTYPE))
        for name, (content, mode) in sorted(files.items()):
            archive.addfile(tar_member(name, len(content), mode), io.BytesIO(content))
    return output.getvalue()


def encode_json(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def write_image(
    path: Path,
    name: str,
    files: Mapping[str, tuple[bytes, int]],
    architecture: Architecture,
    *,
    entrypoint: Sequence[str],
    user: str = "65532:65532",
    ports: Sequence[str] = (),
) -> ImageArchive:
    """Write an image of one layer to `path`.

    `name` is with its tag, `localhost/demo:1`; `files` are name (no leading slash) to content and mode; `ports` are as
    `8080/tcp`. Returns what `inspect_archive` would.
    """
    blobs: dict[str, bytes] = {}

    def blob(content: bytes, media: str) -> dict[str, Any]:
        digest = hashlib.sha256(content).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = content
        return {"mediaType": media, "digest": f"sha256:{digest}", "size": len(content)}

    layer = blob(make_tar(files), "application/vnd.oci.image.layer.v1.tar")
    config = blob(
        encode_json(
            {
                **architecture.to_oci(),
                "os": "linux",
                "created": EPOCH,
                "config": {
                    "Entrypoint": list(entrypoint),
                    "User": user,
                    "WorkingDir": "/",
                    "ExposedPorts": {port: {} for port in ports},
                },
                "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
                "history": [{"created": EPOCH, "created_by": "edge-osbuild"}],
            }
        ),
        "application/vnd.oci.image.config.v1+json",
    )
    manifest = blob(
        encode_json({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]}),
        MANIFEST,
    )
    manifest["platform"] = {**architecture.to_oci(), "os": "linux"}
    manifest["annotations"] = {
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name.rpartition(":")[2],
    }

    def place(descriptor: dict[str, Any]) -> str:
        return "blobs/sha256/" + str(descriptor["digest"]).removeprefix("sha256:")

    docker = [{"Config": place(config), "RepoTags": [name], "Layers": [place(layer)]}]
    top = {
        "oci-layout": encode_json({"imageLayoutVersion": "1.0.0"}),
        "index.json": encode_json({"schemaVersion": 2, "mediaType": INDEXES[0], "manifests": [manifest]}),
        "manifest.json": encode_json(docker),
    }
    path.write_bytes(make_tar({place: (content, 0o644) for place, content in {**top, **blobs}.items()}))
    return ImageArchive(path, (name,), (architecture.to_oci()["architecture"],), str(manifest["digest"]))


def inspect_archive(path: Path, architecture: Architecture) -> ImageArchive:
    """Look into an OCI or docker archive that is to be baked into an image for `architecture`.

    Raises `Error` where it is no such archive, is damaged, has no image for the architecture, or no name.
    """
    try:
        with tarfile.open(path) as archive:
            found = _Reader(archive, path).read()
    except FileNotFoundError as error:
        raise Error("no such file", where=str(path), hint=HOW) from error
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise Error(f"not an image archive: {error}", where=str(path), hint=HOW) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Error(f"not a valid image archive: {error!r}", where=str(path), hint=HOW) from error
    wanted = architecture.to_oci()["architecture"]
    if wanted not in found.architectures:
        has = ", ".join(found.architectures) or "none"
        raise Error(
            f"has no image for {wanted}, only for: {has}",
            where=str(path),
            hint=f"save it for this architecture, for example with `docker pull --platform linux/{wanted}` first",
        )
    if not found.names:
        raise Error(
            "the image in it has no name, so that no pod could ask for it",
            where=str(path),
            hint="save it by its name and tag, not by its id",
        )
    return found


class _Reader:
    def __init__(self, archive: tarfile.TarFile, path: Path) -> None:
        self.archive = archive
        self.path = path
        self.members: dict[str, tarfile.TarInfo] = {}
        self.architectures: set[str] = set()
        self.seen: set[str] = set()
        total = 0
        for entry in archive:  # before what is in it is unpacked: a small archive can claim any size
            total += entry.size
            if total > LARGEST or entry.issparse():
                raise Error(f"{entry.name} is larger than any image", where=str(path), hint=HOW)
            self.members[entry.name.removeprefix("./")] = entry

    def opened(self, name: str) -> IO[bytes]:
        file = self.archive.extractfile(self.members[name]) if name in self.members else None
        if file is None:
            raise Error(f"damaged: {name} is missing", where=str(self.path), hint=HOW)
        return file

    def document(self, name: str) -> Any:
        """What a JSON file says."""
        content = self.opened(name).read(DOCUMENT + 1)
        if len(content) > DOCUMENT:
            raise Error(f"damaged: {name} has more than {DOCUMENT} bytes", where=str(self.path), hint=HOW)
        return parse_json(content)

    def check(self, descriptor: Mapping[str, Any]) -> str:
        """The name of a blob, whose digest is right."""
        kind, _, digest = descriptor["digest"].partition(":")
        name = f"blobs/{kind}/{digest}"
        made = hashlib.sha256()
        with self.opened(name) as file:
            while data := file.read(CHUNK):
                made.update(data)
        if kind == "sha256" and made.hexdigest() != digest:
            raise Error(f"damaged: blob {digest} has another content", where=str(self.path), hint=HOW)
        return name

    def read(self) -> ImageArchive:
        if "index.json" in self.members:
            return self.oci()
        if "manifest.json" in self.members:
            return self.docker()
        raise Error("neither an OCI nor a docker image archive", where=str(self.path), hint=HOW)

    def oci(self) -> ImageArchive:
        entries = self.document("index.json")["manifests"]
        names = []
        for entry in entries:
            notes = entry.get("annotations") or {}
            name = notes.get("io.containerd.image.name") or notes.get("org.opencontainers.image.ref.name") or ""
            if "/" in name or ":" in name:  # a bare tag is no name
                names.append(name)
            self.manifest(entry)
        digest = str(entries[0]["digest"]) if entries else None
        return ImageArchive(self.path, called(names), tuple(sorted(self.architectures)), digest)

    def manifest(self, descriptor: Mapping[str, Any]) -> None:
        """Note the architectures below a manifest or index; of several, those not in the archive don't count."""
        if descriptor["digest"] in self.seen:
            return
        self.seen.add(descriptor["digest"])
        content = self.document(self.check(descriptor))
        if "manifests" in content:
            for entry in content["manifests"]:
                if f"blobs/{entry['digest'].replace(':', '/')}" in self.members:
                    self.manifest(entry)
            return
        for layer in content["layers"]:
            self.check(layer)
        config = self.document(self.check(content["config"]))
        if config.get("os") == "linux":
            self.architectures.add(str(config["architecture"]))

    def docker(self) -> ImageArchive:
        names: list[str] = []
        for image in self.document("manifest.json"):
            names += image.get("RepoTags") or []
            self.architectures.add(str(self.document(image["Config"])["architecture"]))
            for layer in image["Layers"]:
                with self.opened(layer) as file:
                    while file.read(CHUNK):
                        pass
        return ImageArchive(self.path, called(names), tuple(sorted(self.architectures)), None)


def called(names: Sequence[object]) -> tuple[str, ...]:
    """The names of images, each a line of a file in the image. Raises `ValueError` for one that is none."""
    for name in names:
        if not isinstance(name, str) or not re.fullmatch(r"[!-~]{1,500}", name):
            raise ValueError(f"{name!r} is not the name of an image")
    return tuple(map(str, names))
