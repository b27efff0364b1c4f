"""The container images of K3s' add-ons, which each release has as one archive for hosts without a network."""

import json
from pathlib import Path

from osbuild.host import log
from osbuild.host.architecture import Architecture
from osbuild.host.cache import Cache, content_key
from osbuild.kubernetes import image_archive
from osbuild.kubernetes.image_archive import ImageArchive
from osbuild.kubernetes.k3s_payload import decompress
from osbuild.kubernetes.k3s_release import K3sRelease
from osbuild.kubernetes.tree_files import install_file
from osbuild.sandbox.tools_tree import ToolsTree
from osbuild.shared.errors import Error

NAME = "k3s-airgap-images.tar"  # in the image, whose file system compresses it: `ctr images import` reads no Zstandard
HINT = "use the unmodified file of the release page"
LARGEST = image_archive.MAX_UNPACKED  # bytes of the unpacked archive


def unpack_images(archive: Path, sha256: str, architecture: Architecture, cache: Cache, tools: ToolsTree) -> Path:
    """Return a folder with the decompressed archive and the names of its images, which is cached.

    The images are checked like those of a profile. `sha256` is the verified SHA-256 of the archive. Raises `Error`.
    """

    def make(path: Path) -> None:
        with log.step("decompressing and checking K3s' container images"):
            path.mkdir()
            packed, plain = path / "images.tar.zst", path / NAME
            install_file(archive, packed, 0o644)
            if not decompress(packed, plain, LARGEST, tools):
                raise Error(f"has more than {LARGEST} bytes when it is unpacked", where=archive.name, hint=HINT)
            packed.unlink()
            (path / "names.json").write_text(json.dumps(image_archive.inspect_archive(plain, architecture).names))

    return cache.get_or_make("k3s", content_key("airgap images", sha256, architecture), make)


def install_images(folder: Path, unpacked: Path, release: K3sRelease) -> ImageArchive:
    """Copy the archive in `unpacked` to the folder of the image's container images. Raises `OSError`."""
    target = folder / NAME
    install_file(unpacked / NAME, target, 0o644)
    names = tuple(json.loads((unpacked / "names.json").read_text()))
    return ImageArchive(target, names, (), release.sha256)
