"""Where Kubernetes' files are on a node."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Paths:
    """Where things are, below `root` (`/` on a device)."""

    root: Path

    @property
    def data(self) -> Path:
        return self.root / "var/lib/kubernetes"

    @property
    def pki(self) -> Path:
        return self.data / "pki"

    @property
    def run(self) -> Path:
        return self.root / "run/edge-osbuild/kubernetes"

    @property
    def socket(self) -> Path:
        return self.root / "run/kine/kine.sock"

    @property
    def containerd(self) -> Path:
        return self.root / "run/containerd/containerd.sock"

    @property
    def kubelet(self) -> Path:
        return self.root / "var/lib/kubelet"

    @property
    def plugins(self) -> Path:
        return self.kubelet / "volume-plugins"
