"""The Pod Security level of a cluster: the configuration of the API server's admission plugin PodSecurity."""

from typing import Any

from osbuild.agent.kubernetes.paths import Paths
from osbuild.agent.kubernetes.settings import write_json
from osbuild.shared.node_settings import NodeSettings

EXEMPT = ["kube-system"]  # the namespace of the add-ons, some of which need the host's network and folders


def admission_configuration(level: str) -> dict[str, Any]:
    """AdmissionConfiguration with PodSecurityConfiguration (pod-security.admission.config.k8s.io/v1).

    `level` applies to every namespace that has no label of its own.
    """
    modes = ("enforce", "audit", "warn")
    return {
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "AdmissionConfiguration",
        "plugins": [
            {
                "name": "PodSecurity",
                "configuration": {
                    "apiVersion": "pod-security.admission.config.k8s.io/v1",
                    "kind": "PodSecurityConfiguration",
                    "defaults": {mode: level for mode in modes} | {f"{mode}-version": "latest" for mode in modes},
                    "exemptions": {"usernames": [], "runtimeClasses": [], "namespaces": EXEMPT},
                },
            }
        ],
    }


def write_pod_security(settings: NodeSettings, paths: Paths) -> list[str]:
    """Write the configuration, and return the arguments of the API server, without dashes. Raises `OSError`."""
    if settings.pod_security == "privileged":  # the API server's default
        return []
    path = paths.run / "admission.json"
    write_json(path, admission_configuration(settings.pod_security))
    return [f"admission-control-config-file={path}"]
