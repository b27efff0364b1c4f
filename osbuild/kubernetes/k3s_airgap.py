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

NAME = "k3s-airgap-images.tar.zst"  # in the image; it stays compressed, because containerd reads it as it is
HINT = "use the unmodified file of the release page"
LARGEST = image_archive.MAX_UNPACKED  # bytes of the unpacked archive


def read_names(
    archive: Path, sha256: str, architecture: Architecture, cache: Cache, tools: ToolsTree
) -> tuple[str, ...]:
    """Return the names of the images in an archive, which is checked like those of a profile. They are cached.

    `sha256` is the verified SHA-256 of the archive. Raises `Error`.
    """

    def make(path: Path) -> None:
        with log.step("checking K3s' container images"):
            packed, plain = path.with_name("images.tar.zst"), path.with_name("images.tar")
            install_file(archive, packed, 0o644)
            if not decompress(packed, plain, LARGEST, tools):
                raise Error(f"has more than {LARGEST} bytes when it is unpacked", where=archive.name, hint=HINT)
            path.write_text(json.dumps(image_archive.inspect_archive(plain, architecture).names))

    found = cache.get_or_make("k3s", content_key("airgap", sha256, architecture), make)
    return tuple(json.loads(found.read_text()))


def install_images(folder: Path, archive: Path, release: K3sRelease, names: tuple[str, ...]) -> ImageArchive:
    """Copy the archive to the folder of the image's container images. Raises `OSError`."""
    target = folder / NAME
    install_file(archive, target, 0o644)
    return ImageArchive(target, names, (), release.sha256)
