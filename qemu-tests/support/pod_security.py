"""What the Pod Security level of a cluster refuses, asked of a real API server of either distribution."""

import urllib.error

import pytest

from osbuild.agent.kubernetes.api import ApiServer
from support.control_plane import wait_for

SPEC = {"containers": [{"name": "c", "image": "localhost/edge-demo:1", "securityContext": {"privileged": True}}]}


def assert_privileged_pods_only_in_kube_system(server: ApiServer) -> None:
    """Assert that a privileged pod is refused in the namespace `default` and accepted in `kube-system`."""

    def create(namespace: str) -> None:
        wait_for(lambda: server.call("GET", f"/api/v1/namespaces/{namespace}/serviceaccounts/default"), namespace)
        server.call("POST", f"/api/v1/namespaces/{namespace}/pods", {"metadata": {"name": "p"}, "spec": SPEC})

    with pytest.raises(urllib.error.HTTPError) as caught:
        create("default")
    assert caught.value.code == 403 and "violates PodSecurity" in str(caught.value.strerror)
    create("kube-system")
