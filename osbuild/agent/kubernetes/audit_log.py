"""The API server's audit log: its policy (audit.k8s.io/v1) and its size, on both distributions."""

from typing import Any

from osbuild.agent.kubernetes.paths import Paths
from osbuild.agent.kubernetes.settings import write_json

READ = ["get", "list", "watch"]
NODES, SYSTEM_ACCOUNTS = "system:nodes", "system:serviceaccounts:kube-system"
# Programs of the node, which act all the time.
PROGRAMS = [
    "system:kube-controller-manager", "system:kube-scheduler", "system:kube-proxy", "system:k3s-controller",
    "system:k3s-supervisor",
]  # fmt: skip
# At most one file of 10 MB, and ten compressed ones, of which the oldest is removed after 30 days.
LIMITS = ("audit-log-maxage=30", "audit-log-maxbackup=10", "audit-log-maxsize=10", "audit-log-compress=true")


def audit_policy() -> dict[str, Any]:
    """Record who has requested what, without contents. What the cluster's own programs read is left out."""
    return {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [
            {"level": "None", "nonResourceURLs": ["/healthz*", "/livez*", "/readyz*", "/openapi*", "/version"]},
            {
                "level": "None",
                "resources": [
                    {"group": "", "resources": ["events"]},
                    {"group": "events.k8s.io"},
                    {"group": "coordination.k8s.io", "resources": ["leases"]},
                ],
            },
            {"level": "None", "users": ["system:apiserver"]},  # its own start
            {"level": "None", "users": PROGRAMS, "verbs": READ},
            {"level": "None", "userGroups": [NODES, SYSTEM_ACCOUNTS], "verbs": READ},
            {
                "level": "None",
                "userGroups": [NODES, SYSTEM_ACCOUNTS],
                "resources": [
                    {"group": "", "resources": ["endpoints", "nodes/status", "pods/status"]},
                    {"group": "discovery.k8s.io", "resources": ["endpointslices"]},
                    {"group": "authentication.k8s.io", "resources": ["tokenreviews"]},
                    {"group": "authorization.k8s.io", "resources": ["subjectaccessreviews"]},
                ],
            },
            {"level": "Metadata"},
        ],
    }


def write_audit_policy(paths: Paths) -> list[str]:
    """Write the policy, and return the arguments of the API server, without dashes. Raises `OSError`."""
    paths.audit_log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    policy = paths.run / "audit-policy.json"
    write_json(policy, audit_policy())
    return [f"audit-log-path={paths.audit_log}", f"audit-policy-file={policy}", *LIMITS]
