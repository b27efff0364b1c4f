"""The K3s distribution: its one configuration file (K3s documentation, "Configuration File")."""

from pathlib import Path
from typing import Any

from osbuild.agent.kubernetes.settings import STABLE_ADDRESS, Settings

DATA = "/var/lib/kubernetes"
# Entries that may be given several times: the profile's are added to ours.
LISTS = ("kubelet-arg", "node-label", "node-taint", "disable", "tls-san")


def config(settings: Settings) -> dict[str, Any]:
    """K3s' config.yaml. `config` of the profile is added, and wins over what is chosen here."""
    ours: dict[str, Any] = {
        "data-dir": DATA,
        "container-runtime-endpoint": "unix:///run/containerd/containerd.sock",
        "kubelet-arg": ["cgroup-driver=systemd"],
        "node-name": settings.node_name,
        "node-label": [f"{key}={value}" for key, value in settings.labels.items()],
        "node-taint": list(settings.taints),
        "token": settings.token,
        "node-ip": settings.node_ip,
    }
    if settings.role == "server":
        ours |= {
            "advertise-address": settings.advertise_address,
            "disable": list(settings.disable),
            "tls-san": [STABLE_ADDRESS],
            "write-kubeconfig": f"{DATA}/admin.conf",
            "write-kubeconfig-mode": "0600",
        }
    else:
        ours["server"] = settings.server
    merged = ours | settings.config
    for key in LISTS:
        if key in ours and key in settings.config:
            merged[key] = [*ours[key], *settings.words(key)]
    return {key: value for key, value in merged.items() if value not in (None, [])}


def place_manifests(sources: list[Path], goal: Path) -> None:
    """Make the folder that K3s applies hold exactly `sources` of ours, beside what K3s itself puts there."""
    goal.mkdir(parents=True, exist_ok=True)
    wanted = {f"edge-{source.name}": source for source in sources}
    for old in goal.glob("edge-*"):
        if old.name not in wanted:
            old.unlink()
    for name, source in wanted.items():
        content = source.read_bytes()
        place = goal / name
        if not place.exists() or place.read_bytes() != content:
            place.write_bytes(content)
