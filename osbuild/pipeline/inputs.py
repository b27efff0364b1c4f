"""Resolves the inputs of an image and its content key, which combines the keys of the build steps."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from osbuild.boot.initrd import InitrdRecipe
from osbuild.boot.kernel import kernel_key
from osbuild.boot.packages import boot_packages_key
from osbuild.config.affected import image_keys
from osbuild.config.board import Board
from osbuild.config.key_table import to_json
from osbuild.config.load import LoadedProfile
from osbuild.config.profile import KubernetesSettings
from osbuild.host import paths
from osbuild.host.architecture import Architecture
from osbuild.host.cache import content_key, tree_digest
from osbuild.image import update_trust
from osbuild.image.rauc_config import compatible_of
from osbuild.inputs.lock import Lock
from osbuild.keys.key_folder import KeyFolder
from osbuild.kubernetes import component
from osbuild.pipeline.base_layer import base_layer_key
from osbuild.pipeline.image_code import image_code_key
from osbuild.pipeline.resolve import locked_kubernetes
from osbuild.rootfs.debian_root import RootfsRecipe
from osbuild.sandbox.tools_tree import tools_tree_key

ESP_MOUNT_POINT = "/efi"  # in an image


@dataclass(frozen=True)
class BuildInputs:
    """The resolved inputs of an image. `trust` are the files with keyring and update settings.

    `overlays`, `rootfs`, `base` and `key` are content keys: of the overlays, the root file system, the base layer and
    the image.
    """

    loaded: LoadedProfile
    board: Board
    lock: Lock
    keys: KeyFolder
    trust: Mapping[Path, bytes]
    overlay_folders: tuple[Path, ...]
    elements: tuple[Path, ...]
    kubernetes: KubernetesSettings
    root: RootfsRecipe
    initrd: InitrdRecipe
    overlays: str
    rootfs: str
    base: str
    key: str

    @property
    def architecture(self) -> Architecture:
        return self.lock.architecture


def find_inputs(loaded: LoadedProfile, board: Board, lock: Lock, keys: KeyFolder) -> BuildInputs:
    """Find every input and compute the content keys, without building anything. Raises `Error`.

    Only the public parts of `keys` are used.
    """
    profile = loaded.profile
    trust = update_trust.trust_files(compatible_of(profile.name, board.name), keys, boot=ESP_MOUNT_POINT)
    overlay_folders = tuple(paths.overlay_path(name, loaded.folder) for name in profile.overlays)
    elements = tuple(paths.element_path(name, loaded.folder) for name in profile.elements)
    settings, kubernetes_key = profile.kubernetes, ""
    if settings.role != "none":
        settings = locked_kubernetes(loaded, lock)
        kubernetes_key = component.component_key(settings, lock.architecture, base=loaded.folder)
    root = RootfsRecipe(lock.packages, lock.architecture, tools_tree_key(lock.root_tools), elements)
    initrd = InitrdRecipe(lock.initrd, lock.kernel, lock.architecture, board.modules)
    rootfs, overlays = root.key, tree_digest(*overlay_folders)
    base = base_layer_key(rootfs, kernel_key(lock.kernel), kubernetes_key, lock)
    key = content_key(
        base, initrd.key, boot_packages_key(lock.boot), overlays, image_keys(profile), [image_code_key()],
        lock.architecture, to_json(board), {str(path): data.decode() for path, data in trust.items()},
    )  # fmt: skip
    return BuildInputs(
        loaded, board, lock, keys, trust, overlay_folders, elements, settings, root, initrd, overlays, rootfs, base, key
    )
