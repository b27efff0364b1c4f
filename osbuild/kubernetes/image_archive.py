"""Archives of container images: write our own, and check those of a profile.

Our archives are tar files with an OCI image layout (OCI image-spec, image-layout.md) and docker's `manifest.json`, so
that `ctr images import`, `docker load` and `skopeo` all read them. They are reproducible: times and owners are fixed,
and layers are not compressed, because a compressor's output changes with its version.
"""

import hashlib
import io
import json
import lzma
import re
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

from osbuild.host.architecture import Architecture
from osbuild.shared.errors import Error
from osbuild.shared.json_text import parse_json

USER = "65532:65532"  # of our own images: without rights, and not a user of the node
EPOCH = "1970-01-01T00:00:00Z"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
MAX_UNPACKED = 16 * 2**30  # bytes of an unpacked archive
MAX_DOCUMENT = 4 * 2**20  # bytes of a JSON file in an archive
CHUNK = 2**20
SAVE_HINT = "save one with `docker save`, `skopeo copy … oci-archive:FILE` or `ctr images export`"


@dataclass(frozen=True)
class ImageArchive:
    """The contents of an image archive. `digest` is its first OCI manifest's or index's, None for docker's format."""

    path: Path
    names: tuple[str, ...]
    architectures: tuple[str, ...]
    digest: str | None


def tar_member(name: str, size: int, mode: int, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    """Return a reproducible tar entry: it depends on neither the host nor the time."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.type, entry.mtime = size, mode, kind, 0
    return entry


def make_tar(files: Mapping[str, tuple[bytes, int]], links: Mapping[str, str] = MappingProxyType({})) -> bytes:
    """Return a tar archive of `files` (name -> content and mode) and symbolic `links`, with their parent folders."""
    folders = {str(parent) for name in (*files, *links) for parent in Path(name).parents} - {"."}
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in sorted(folders):
            archive.addfile(tar_member(name, 0, 0o755, tarfile.DIRTYPE))
        for name, (content, mode) in sorted(files.items()):
            archive.addfile(tar_member(name, len(content), mode), io.BytesIO(content))
        for name, target in sorted(links.items()):
            entry = tar_member(name, 0, 0o777, tarfile.SYMTYPE)
            entry.linkname = target
            archive.addfile(entry)
    return output.getvalue()


def encode_json(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


@dataclass(frozen=True, kw_only=True)
class SmallImage:
    """A container image. By default it runs as a user without rights.

    `name` includes the tag, such as `localhost/demo:1`. `files` maps names without a leading slash to content and mode.
    `links` are symbolic links (name -> target). `ports` are written like `8080/tcp`. `lower` are tar archives,
    the layers below the one with files and links, the lowest first.
    """

    name: str
    files: Mapping[str, tuple[bytes, int]]
    entrypoint: Sequence[str]
    ports: Sequence[str] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    lower: Sequence[bytes] = ()
    user: str = USER
    command: Sequence[str] = ()
    environment: Sequence[str] = ()

    def config(self) -> dict[str, Any]:
        """Return the image's settings for containers (OCI image-spec, config.md)."""
        optional = {"Cmd": list(self.command), "Env": list(self.environment)}
        return {
            "Entrypoint": list(self.entrypoint),
            "User": self.user,
            "WorkingDir": "/",
            "ExposedPorts": {port: {} for port in self.ports},
            **{name: value for name, value in optional.items() if value},
        }


def write_image(path: Path, image: SmallImage, architecture: Architecture) -> ImageArchive:
    """Write a container image to `path`. Returns the same as `inspect_archive` for the archive. Raises `OSError`."""
    blobs: dict[str, bytes] = {}

    def blob(content: bytes, media: str) -> dict[str, Any]:
        digest = hashlib.sha256(content).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = content
        return {"mediaType": media, "digest": f"sha256:{digest}", "size": len(content)}

    contents = [*image.lower, make_tar(image.files, image.links)]
    layers = [blob(content, "application/vnd.oci.image.layer.v1.tar") for content in contents]
    config = blob(
        encode_json(
            {
                **architecture.to_oci(),
                "os": "linux",
                "created": EPOCH,
                "config": image.config(),
                "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]},
                "history": [{"created": EPOCH, "created_by": "edge-osbuild"} for _ in layers],
            }
        ),
        "application/vnd.oci.image.config.v1+json",
    )
    manifest = blob(
        encode_json({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers}),
        MANIFEST,
    )
    manifest["platform"] = {**architecture.to_oci(), "os": "linux"}
    manifest["annotations"] = {
        "io.containerd.image.name": image.name,
        "org.opencontainers.image.ref.name": image.name.rpartition(":")[2],
    }

    def blob_path(descriptor: dict[str, Any]) -> str:
        return "blobs/sha256/" + str(descriptor["digest"]).removeprefix("sha256:")

    docker = [{"Config": blob_path(config), "RepoTags": [image.name], "Layers": [*map(blob_path, layers)]}]
    top = {
        "oci-layout": encode_json({"imageLayoutVersion": "1.0.0"}),
        "index.json": encode_json({"schemaVersion": 2, "mediaType": INDEXES[0], "manifests": [manifest]}),
        "manifest.json": encode_json(docker),
    }
    path.write_bytes(make_tar({file: (content, 0o644) for file, content in {**top, **blobs}.items()}))
    return ImageArchive(path, (image.name,), (architecture.to_oci()["architecture"],), str(manifest["digest"]))


def inspect_archive(path: Path, architecture: Architecture) -> ImageArchive:
    """Check an OCI or docker archive that a profile adds to an image for `architecture`.

    Raises `Error` if it is not such an archive, is damaged, has no image for the architecture, or no name.
    """
    try:
        with tarfile.open(path) as archive:
            contents = _Reader(archive, path).read()
    except FileNotFoundError as error:
        raise Error("this file does not exist", where=str(path), hint=SAVE_HINT) from error
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise Error(f"this is not an image archive: {error}", where=str(path), hint=SAVE_HINT) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Error(f"this is not a valid image archive: {error!r}", where=str(path), hint=SAVE_HINT) from error
    required = architecture.to_oci()["architecture"]
    if required not in contents.architectures:
        available = ", ".join(contents.architectures) or "none"
        raise Error(
            f"has no image for {required}, only for: {available}",
            where=str(path),
            hint=f"save it for this architecture, for example with `docker pull --platform linux/{required}` first",
        )
    if not contents.names:
        raise Error(
            "the container image has no name, so no pod could use it",
            where=str(path),
            hint="save it by name and tag, not by id",
        )
    return contents


class _Reader:
    def __init__(self, archive: tarfile.TarFile, path: Path) -> None:
        self.archive = archive
        self.path = path
        self.members: dict[str, tarfile.TarInfo] = {}
        self.architectures: set[str] = set()
        self.seen: set[str] = set()
        total = 0
        for entry in archive:  # checked before anything is unpacked: a small archive can unpack to any size
            total += entry.size
            if total > MAX_UNPACKED or entry.issparse():
                raise Error(f"the archive is too large: {entry.name}", where=str(path), hint=SAVE_HINT)
            self.members[entry.name.removeprefix("./")] = entry

    def opened(self, name: str) -> IO[bytes]:
        file = self.archive.extractfile(self.members[name]) if name in self.members else None
        if file is None:
            raise Error(f"damaged: {name} is missing", where=str(self.path), hint=SAVE_HINT)
        return file

    def document(self, name: str) -> Any:
        """Parse a JSON file of the archive."""
        data = self.opened(name).read(MAX_DOCUMENT + 1)
        if len(data) > MAX_DOCUMENT:
            raise Error(f"damaged: {name} has more than {MAX_DOCUMENT} bytes", where=str(self.path), hint=SAVE_HINT)
        return parse_json(data)

    def check(self, descriptor: Mapping[str, Any]) -> str:
        """Check the digest of a blob and return its name in the archive."""
        kind, _, digest = descriptor["digest"].partition(":")
        name = f"blobs/{kind}/{digest}"
        sha256 = hashlib.sha256()
        with self.opened(name) as file:
            while data := file.read(CHUNK):
                sha256.update(data)
        if kind == "sha256" and sha256.hexdigest() != digest:
            raise Error(
                f"damaged: the content of blob {digest} does not match its digest", where=str(self.path), hint=SAVE_HINT
            )
        return name

    def read(self) -> ImageArchive:
        if "index.json" in self.members:
            return self.oci()
        if "manifest.json" in self.members:
            return self.docker()
        raise Error("neither an OCI nor a docker image archive", where=str(self.path), hint=SAVE_HINT)

    def oci(self) -> ImageArchive:
        entries = self.document("index.json")["manifests"]
        names = []
        for entry in entries:
            notes = entry.get("annotations") or {}
            name = notes.get("io.containerd.image.name") or notes.get("org.opencontainers.image.ref.name") or ""
            if "/" in name or ":" in name:  # a tag alone is not a name
                names.append(name)
            self.manifest(entry)
        digest = str(entries[0]["digest"]) if entries else None
        return ImageArchive(self.path, check_names(names), tuple(sorted(self.architectures)), digest)

    def manifest(self, descriptor: Mapping[str, Any]) -> None:
        """Collect the architectures of an OCI manifest or index. Images that the archive lacks are skipped."""
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
        full_names = tuple(map(full_name, check_names(names)))
        return ImageArchive(self.path, full_names, tuple(sorted(self.architectures)), None)


def full_name(name: str) -> str:
    """Return containerd's name of an image in docker's archive, such as `docker.io/library/web:latest` for `web`.

    The rules are those of the Go package github.com/distribution/reference (`ParseNormalizedNamed`).
    """
    first, slash, rest = name.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost"):
        first, rest = "docker.io", name
    if first == "docker.io" and "/" not in rest:
        rest = f"library/{rest}"
    tagged = ":" in rest.rpartition("/")[2] or "@" in rest
    return f"{first}/{rest}" if tagged else f"{first}/{rest}:latest"


def check_names(names: Sequence[object]) -> tuple[str, ...]:
    """Return the names of container images. Raises `ValueError` for an invalid name."""
    # Each name becomes a line of a file in the image.
    for name in names:
        if not isinstance(name, str) or not re.fullmatch(r"[!-~]{1,500}", name):
            raise ValueError(f"{name!r} is not the name of a container image")
    return tuple(map(str, names))
