"""Container image archives: ours are the same every time, users' are looked into before they are baked in."""

import bz2
import contextlib
import gzip
import hashlib
import io
import json
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from osbuild.host.architecture import Architecture
from osbuild.kubernetes import image_archive, plain_archive
from osbuild.shared.errors import Error
from tests.support.examples import examples

X86 = Architecture.x86_64
NAME = "localhost/demo:1"


def image(path: Path, architecture: Architecture = X86, name: str = NAME) -> image_archive.ImageArchive:
    files = {"bin/demo": (b"\x7fELF demo", 0o755)}
    return image_archive.write_image(
        path,
        image_archive.SmallImage(name=name, files=files, entrypoint=["/bin/demo"], ports=["80/tcp"]),
        architecture,
    )


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        return {entry.name: file.read() for entry in archive if (file := archive.extractfile(entry))}


def repack(path: Path, content: dict[str, bytes]) -> Path:
    path.write_bytes(image_archive.make_tar({name: (data, 0o644) for name, data in content.items()}))
    return path


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    image(tmp_path / "one.tar")
    image(tmp_path / "two.tar")
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()


def test_what_was_written_is_what_inspect_finds(tmp_path: Path) -> None:
    written = image(tmp_path / "demo.tar")
    assert image_archive.inspect_archive(tmp_path / "demo.tar", X86) == written
    assert written.names == (NAME,)
    assert written.architectures == ("amd64",)


def test_every_descriptor_leads_to_a_blob_of_its_digest_and_size(tmp_path: Path) -> None:
    image(tmp_path / "demo.tar", Architecture.armv7)
    files = members(tmp_path / "demo.tar")
    (top,) = json.loads(files["index.json"])["manifests"]
    assert top["platform"] == {"architecture": "arm", "variant": "v7", "os": "linux"}
    manifest = json.loads(files["blobs/sha256/" + top["digest"][7:]])
    config = json.loads(files["blobs/sha256/" + manifest["config"]["digest"][7:]])
    for descriptor in (top, manifest["config"], *manifest["layers"]):
        blob = files["blobs/sha256/" + descriptor["digest"][7:]]
        assert hashlib.sha256(blob).hexdigest() == descriptor["digest"][7:]
        assert len(blob) == descriptor["size"]
    assert config["rootfs"]["diff_ids"] == [manifest["layers"][0]["digest"]]
    assert config["config"]["Entrypoint"] == ["/bin/demo"]


def test_a_layer_depends_neither_on_the_host_nor_on_the_time(tmp_path: Path) -> None:
    layer = image_archive.make_tar({"a/b": (b"x", 0o755)})
    with tarfile.open(fileobj=io.BytesIO(layer)) as archive:
        entries = archive.getmembers()
    assert [(entry.name, entry.mode) for entry in entries] == [("a", 0o755), ("a/b", 0o755)]
    assert all((entry.mtime, entry.uid, entry.gid, entry.uname) == (0, 0, 0, "") for entry in entries)


def test_an_archive_of_docker_is_taken(tmp_path: Path) -> None:
    image(tmp_path / "demo.tar")
    content = members(tmp_path / "demo.tar")
    del content["index.json"], content["oci-layout"]
    inspected = image_archive.inspect_archive(repack(tmp_path / "docker.tar", content), X86)
    assert (inspected.names, inspected.architectures, inspected.digest) == ((NAME,), ("amd64",), None)


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("web", "docker.io/library/web:latest"),
        ("web:1", "docker.io/library/web:1"),
        ("rancher/klipper-lb:v1", "docker.io/rancher/klipper-lb:v1"),
        ("docker.io/web:1", "docker.io/library/web:1"),
        ("localhost/web:1", "localhost/web:1"),
        ("registry.example:5000/web", "registry.example:5000/web:latest"),
        ("registry.example/team/web:1", "registry.example/team/web:1"),
    ],
)
def test_the_names_in_an_archive_of_docker_are_those_that_containerd_gives(name: str, full: str) -> None:
    """Otherwise, `import-images` could not find what it has imported."""
    assert image_archive.full_name(name) == full


def test_another_architecture_is_refused_with_what_there_is(tmp_path: Path) -> None:
    image(tmp_path / "demo.tar", Architecture.arm64)
    with pytest.raises(Error, match="no image for amd64, only for: arm64") as caught:
        image_archive.inspect_archive(tmp_path / "demo.tar", X86)
    assert "docker pull --platform linux/amd64" in str(caught.value.hint)


def test_an_image_without_a_name_is_refused(tmp_path: Path) -> None:
    image(tmp_path / "demo.tar")
    content = members(tmp_path / "demo.tar")
    index = json.loads(content["index.json"])
    del index["manifests"][0]["annotations"]
    content["index.json"] = json.dumps(index).encode()
    with pytest.raises(Error, match="has no name"):
        image_archive.inspect_archive(repack(tmp_path / "demo.tar", content), X86)


def test_a_changed_blob_is_noticed(tmp_path: Path) -> None:
    image(tmp_path / "demo.tar")
    content = members(tmp_path / "demo.tar")
    layer = max((name for name in content if name.startswith("blobs/")), key=lambda name: len(content[name]))
    content[layer] = content[layer].replace(b"ELF demo", b"ELF evil")
    with pytest.raises(Error, match="does not match its digest"):
        image_archive.inspect_archive(repack(tmp_path / "demo.tar", content), X86)


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", b"\x1f\x8b\x08rubbish"])
def test_a_file_that_is_not_an_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "image.tar").write_bytes(content)
    with pytest.raises(Error, match=r"not an image archive|neither an OCI nor a docker"):
        image_archive.inspect_archive(tmp_path / "image.tar", X86)


def test_a_missing_file_is_reported_as_missing(tmp_path: Path) -> None:
    with pytest.raises(Error, match="does not exist"):
        image_archive.inspect_archive(tmp_path / "none.tar", X86)


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "tar": bytes,
    "gz": lambda data: gzip.compress(data, 1),
    "xz": lambda data: lzma.compress(data, preset=0),
    "bz2": lambda data: bz2.compress(data, 1),
}


@pytest.mark.parametrize("kind", PACKED)
def test_a_compressed_archive_is_stored_as_the_node_reads_it(kind: str, tmp_path: Path) -> None:
    image(tmp_path / "demo.tar")
    plain = (tmp_path / "demo.tar").read_bytes()
    archive = tmp_path / f"demo.tar.{kind}"
    archive.write_bytes(PACKED[kind](plain))
    assert image_archive.inspect_archive(archive, X86).names == (NAME,)
    plain_archive.write_plain_archive(archive, tmp_path / "stored")
    assert (tmp_path / "stored").read_bytes() == plain
    assert plain_archive.find_stem("my.target" + ("" if kind == "tar" else ".tar") + f".{kind}") == "my.target"


@pytest.mark.parametrize("kind", PACKED)
@settings(max_examples=examples(100), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_archive_is_an_error_or_unharmed_and_never_a_traceback(
    kind: str, tmp_path: Path, data: st.DataObject
) -> None:
    image(tmp_path / "demo.tar")
    content = bytearray(PACKED[kind]((tmp_path / "demo.tar").read_bytes()))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "demo.tar").write_bytes(bytes(content[: data.draw(st.integers(1, len(content)))]))
    with contextlib.suppress(Error):
        assert image_archive.inspect_archive(tmp_path / "demo.tar", X86).architectures == ("amd64",)


def listing(digest: str) -> bytes:
    return json.dumps({"manifests": [{"digest": digest, "annotations": {"io.containerd.image.name": NAME}}]}).encode()


def docker(**changes: object) -> dict[str, bytes]:
    entry = {"Config": "c", "RepoTags": [NAME], "Layers": []} | changes
    return {"manifest.json": json.dumps([entry]).encode(), "c": b'{"architecture": "amd64"}'}


SENSELESS: dict[str, dict[str, bytes]] = {
    "an index that is nested without end": {"index.json": b"[" * 100_000},
    "an index that names itself": {"index.json": listing("sha512:x"), "blobs/sha512/x": listing("sha512:x")},
    "an index of numbers": {"index.json": b'{"manifests": [5]}'},
    "a name of two lines": docker(RepoTags=["a\nlocalhost/edge-pause:1"]),
    "a name that is a number": docker(RepoTags=[5]),
    "layers that are a number": docker(Layers=5),
    "a description without end": {"index.json": b" " * (image_archive.MAX_DOCUMENT + 1)},
}


@pytest.mark.parametrize("name", SENSELESS)
def test_what_makes_no_sense_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(Error) as caught:
        image_archive.inspect_archive(repack(tmp_path / "image.tar", SENSELESS[name]), X86)
    assert caught.value.where == str(tmp_path / "image.tar") and caught.value.hint


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
@pytest.mark.parametrize("to", ["index.json", "/etc/passwd", "../../etc/passwd"])
def test_a_link_or_folder_in_the_place_of_a_file_is_refused(kind: bytes, to: str, tmp_path: Path) -> None:
    entry = tarfile.TarInfo("index.json")
    entry.type, entry.linkname = kind, to
    with tarfile.open(tmp_path / "image.tar", "w") as archive:
        archive.addfile(entry)
    with pytest.raises(Error):
        image_archive.inspect_archive(tmp_path / "image.tar", X86)


def sparse(name: bytes, size: int) -> bytes:
    """A tar of one sparse file of `size` zeros, as GNU tar writes it: 1.5 KiB whatever it claims."""
    head = bytearray(512)
    head[: len(name)] = name
    head[100:124] = b"0000644\0" + b"0000000\0" * 2
    head[124:148] = b"00000000000\0" * 2
    head[148:157] = b" " * 8 + b"S"
    head[257:265] = b"ustar  \0"
    head[386:410] = b"00000000000\0" * 2
    head[483:495] = b"\x80" + size.to_bytes(11, "big")
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + bytes(1024)


@pytest.mark.parametrize("size", [2**40, 2**20])
def test_what_an_archive_only_claims_to_hold_takes_no_memory(size: int, tmp_path: Path) -> None:
    (tmp_path / "image.tar").write_bytes(sparse(b"index.json", size))
    with pytest.raises(Error, match="the archive is too large"):
        image_archive.inspect_archive(tmp_path / "image.tar", X86)
