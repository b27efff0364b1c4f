import json
from pathlib import Path

from osbuild.agent.kubernetes import charts, control_plane, k3s
from osbuild.agent.kubernetes.paths import Paths
from osbuild.shared.node_settings import NodeSettings


def test_charts_of_the_image_are_linked_and_those_of_the_other_slot_are_not(tmp_path: Path) -> None:
    image, folder = tmp_path / charts.CHARTS, tmp_path / "static"
    image.mkdir(parents=True)
    (image / "a-1.tgz").write_text("one")
    (image / "b-1.tgz").write_text("one")
    charts.link_charts(tmp_path, folder)
    (folder / "own.tgz").write_text("of a user")
    (image / "a-1.tgz").unlink()
    charts.link_charts(tmp_path, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["b-1.tgz", "own.tgz"]
    assert (folder / "b-1.tgz").read_text() == "one"


def test_a_file_of_a_user_is_not_replaced_by_a_chart_of_the_image(tmp_path: Path) -> None:
    image, folder = tmp_path / charts.CHARTS, tmp_path / "static"
    image.mkdir(parents=True)
    folder.mkdir()
    (image / "a.tgz").write_text("of the image")
    (folder / "a.tgz").write_text("of a user")
    charts.link_charts(tmp_path, folder)
    assert (folder / "a.tgz").read_text() == "of a user"


def test_helm_controller_starts_jobs_with_the_image_of_this_slot(tmp_path: Path) -> None:
    (tmp_path / charts.IMAGES).parent.mkdir(parents=True)
    (tmp_path / charts.IMAGES).write_text(json.dumps({"HELM_IMAGE": "localhost/edge-helm:1"}))
    arguments = charts.helm_controller_arguments(NodeSettings(node_name="n"), Paths(tmp_path))
    assert "--job-image=localhost/edge-helm:1" in arguments and "--node-name=n" in arguments
    assert "--leader-elect=false" in arguments, "a single server saves the writes"
    several = NodeSettings(role="server", config={"cluster-init": True})
    assert "--leader-elect=true" in charts.helm_controller_arguments(several, Paths(tmp_path))
    offered = control_plane.apiserver_arguments(NodeSettings(), Paths(tmp_path), ["static-charts=/charts"])
    assert "--static-charts=/charts" in offered


def test_k3s_has_no_helm_controller_if_nothing_needs_it(tmp_path: Path) -> None:
    def written(**settings: object) -> object:
        node = NodeSettings(role="server", **settings)  # type: ignore[arg-type]
        return k3s.k3s_config(node, Paths(tmp_path)).get("disable-helm-controller")

    assert written(disable=("traefik",)) is True
    assert written() is True
    assert written(ingress=True, load_balancer=True) is None, "Traefik is a chart"
    assert written(helm=True) is None
