"""The build hook of wheel and sdist (hatchling): data beside `osbuild` in a checkout becomes `osbuild/shipped`."""

import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

TARGET = "osbuild/shipped"
# Top-level folder of a checkout -> pattern of its shipped files. A wheel has a folder of the same name.
FOLDERS = {"boards": "*.yaml", "cloud-init": "*.j2", "profiles": "*.yaml"}


class ShippedFiles(BuildHookInterface[Any]):
    """Adds the data of a checkout and the name of its commit to a wheel or sdist."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before a build. If `version` is `editable`, the installation leads to the checkout."""
        root = Path(self.root)
        if version == "editable" or (root / TARGET).is_dir():  # an unpacked sdist has the folder
            return
        # The checkout that is built need not be installed, and another one may be.
        sys.path.insert(0, self.root)
        from osbuild.host.git_commit import git_commit
        from osbuild.host.packed_tree import pack_tree

        self.scratch = tempfile.TemporaryDirectory(prefix="edge-osbuild-")
        scratch = Path(self.scratch.name)
        (scratch / "overlays.tar").write_bytes(pack_tree(root / "overlays"))
        (scratch / "commit").write_text(f"{git_commit(root) or ''}\n")
        include: dict[str, str] = build_data["force_include"]
        include |= {str(path): f"{TARGET}/{path.name}" for path in scratch.iterdir()}
        for folder, pattern in FOLDERS.items():
            include |= {str(path): f"{TARGET}/{folder}/{path.name}" for path in (root / folder).glob(pattern)}

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Called by hatchling after a build."""
        if hasattr(self, "scratch"):
            self.scratch.cleanup()
