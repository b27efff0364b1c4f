"""Helm charts of the image, which a server offers at /static/charts, and the arguments of helm-controller."""

import json
from pathlib import Path

from osbuild.agent.kubernetes import control_plane
from osbuild.agent.kubernetes.paths import Paths
from osbuild.shared.files import read_file
from osbuild.shared.node_settings import NodeSettings

CHARTS = "usr/lib/edge-osbuild/charts"
IMAGES = "usr/lib/edge-osbuild/addons/images.json"


def link_charts(root: Path, folder: Path) -> None:
    """Link the charts of the image into `folder`, and remove links to charts of other images. Raises `OSError`."""
    # Links, because the other slot has other charts: nothing has to be copied after an update or a rollback.
    charts = {path.name: path for path in sorted((root / CHARTS).glob("*"))}
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.is_symlink() and path.readlink().parent == root / CHARTS and path.name not in charts:
            path.unlink()
    for name, chart in charts.items():
        link = folder / name
        if link.is_symlink() and link.readlink() != chart:
            link.unlink()
        if not link.is_symlink() and link.exists():
            print(f"{link}: this file is used instead of the chart of the image")
        elif not link.is_symlink():
            link.symlink_to(chart)


def helm_controller_arguments(settings: NodeSettings, paths: Paths) -> list[str]:
    """The arguments of helm-controller. Raises `OSError` and `ValueError`."""
    images = json.loads(read_file(paths.root / IMAGES))
    return [
        f"--kubeconfig={paths.data}/helm-controller.conf",
        control_plane.elects_leader(settings),
        f"--job-image={images['HELM_IMAGE']}",
        f"--node-name={settings.node_name}",
    ]
