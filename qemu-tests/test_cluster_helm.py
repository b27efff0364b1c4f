"""A chart of the image on a node that has no network: a HelmChart object installs it.

The tests go on with the machine of `test_cluster` and depend on their order.
"""

import pytest
from support.distributions import CHART, DistributionUnderTest, missing_addons
from support.nodes import ServerNode

from osbuild.config.board import Board

pytestmark = pytest.mark.alone
HELM_CHART = f"""
apiVersion: helm.cattle.io/v1
kind: HelmChart
metadata: {{name: shop, namespace: kube-system}}
spec:
  chart: https://%{{KUBERNETES_API}}%/static/charts/{CHART}
  targetNamespace: shop
  createNamespace: true
  valuesContent: "replicas: 1"
"""
READY = "kubectl -n shop get deployment shop -o jsonpath={.status.readyReplicas}"


@pytest.fixture
def node(cluster_node: ServerNode, board: Board, distribution: DistributionUnderTest) -> ServerNode:
    """Skips if the distribution has no container images of add-ons here."""
    if reason := missing_addons(distribution, board.architecture):
        pytest.skip(reason)
    return cluster_node


def test_a_helm_chart_object_installs_a_chart_of_the_image(node: ServerNode) -> None:
    node.guest.put(HELM_CHART.encode(), "/tmp/shop.yaml")
    node.kubectl("apply -f /tmp/shop.yaml")
    node.wait_until(f"test $({READY}) = 1", timeout=300)
    assert "deployed" in node.kubectl("-n shop get secrets -l owner=helm,name=shop --show-labels")


@pytest.mark.slow  # `make test` has it in test_helm
def test_a_changed_object_upgrades_the_release(node: ServerNode) -> None:
    patch = '{"spec": {"valuesContent": "replicas: 2"}}'
    node.kubectl(f"-n kube-system patch helmchart shop --type=merge -p '{patch}'")
    node.wait_until(f"test $({READY}) = 2", timeout=300)


@pytest.mark.slow
def test_a_deleted_object_uninstalls_the_release(node: ServerNode) -> None:
    node.kubectl("-n kube-system delete helmchart shop --timeout=300s", timeout=320)
    node.wait_until("! kubectl -n shop get deployment shop", timeout=60)
