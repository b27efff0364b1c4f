"""The base layer of an image's root: packages, kernel and Kubernetes, without what the profile changes."""

from pathlib import Path

from osbuild.host import log
from osbuild.host.cache import Cache, content_key, tree_digest
from osbuild.image.layers import BaseLayer, FileSystemStamp, pack_base
from osbuild.image.verity import derived_uuid
from osbuild.inputs.lock import Lock
from osbuild.rootfs.assembly import RootContents, assemble_base
from osbuild.sandbox.tools_tree import tools_tree_key

# Modules that decide what a base layer contains.
BASE_CODE = (
    "boot/slot.py", "config/checks/overlays.py", "host/modes.py", "host/sparse.py", "host/walk.py", "image/disk.py",
    "image/layers.py", "image/verity.py", "rootfs/assembly.py", "rootfs/image_root.py",
)  # fmt: skip


def base_layer_key(rootfs: str, kernel: str, kubernetes: str, lock: Lock) -> str:
    """Content key of a base layer, from the keys of the root, the kernel and Kubernetes (empty for none)."""
    code = tree_digest(*(Path(__file__).parents[1] / name for name in BASE_CODE), code=True)
    return content_key(rootfs, kernel, kubernetes, lock.epoch, tools_tree_key(lock.image_tools), code)


def make_base_layer(cache: Cache, contents: RootContents, key: str) -> BaseLayer:
    """The base layer with `contents`, from the cache if it is there."""

    def make(path: Path) -> None:
        with log.step("base of the root"):
            system = path.with_name("system")
            assemble_base(system, contents)
            pack_base(contents.tools, system, path, FileSystemStamp(derived_uuid(key), contents.epoch))

    return BaseLayer(cache.get_or_make("bases", key, make))
