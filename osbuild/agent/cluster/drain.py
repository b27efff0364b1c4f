"""Evicts the pods of this node before a reboot, like `kubectl drain`.

It uses the eviction API, which respects disruption budgets. Pods that no other node would run are not evicted: pods of
DaemonSets, static pods, and pods without a controller, which an eviction would delete. These pods, and all pods of a
single node, are started again after the reboot with their data.
"""

import time
import urllib.error
from collections.abc import Callable
from typing import Any

from osbuild.agent.kubernetes.api import ApiServer, explain_failure, quote_path

PAUSE = 2.0  # seconds between two polls
MIRROR = "kubernetes.io/config.mirror"


def owner_kind(pod: dict[str, Any]) -> str:
    """The kind of the controller of a pod, `static` for a static pod, or empty for a pod without a controller."""
    if MIRROR in (pod["metadata"].get("annotations") or {}):
        return "static"
    owners = pod["metadata"].get("ownerReferences") or []
    return next((str(owner["kind"]) for owner in owners if owner.get("controller")), "")


def can_move(pod: dict[str, Any]) -> bool:
    """Whether an evicted pod would be started on another node."""
    finished = pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
    return not finished and owner_kind(pod) not in ("", "static", "DaemonSet", "Node")


def pod_label(pod: dict[str, Any]) -> str:
    return f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"


def list_pods(api: ApiServer, node: str) -> list[dict[str, Any]]:
    """The pods of one node. Raises `OSError`."""
    path = f"/api/v1/pods?fieldSelector=spec.nodeName%3D{quote_path(node)}"
    pods: list[dict[str, Any]] = api.call("GET", path)["items"]
    return pods


def evict_pod(api: ApiServer, pod: dict[str, Any]) -> str | None:
    """Evict one pod. Returns why it is refused for now, or None. Raises `OSError` if the server does not answer."""
    metadata = {"name": pod["metadata"]["name"], "namespace": pod["metadata"]["namespace"]}
    path = f"/api/v1/namespaces/{quote_path(metadata['namespace'])}/pods/{quote_path(metadata['name'])}/eviction"
    try:
        api.call("POST", path, {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata})
    except urllib.error.HTTPError as error:
        return None if error.code == 404 else explain_failure(error)  # 429: a disruption budget forbids it
    return None


def drain_node(api: ApiServer, node: str, deadline: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Evict pods until none is left that can move, or for `deadline` seconds.

    Returns the names of `moved` pods, and the pods that are `left` with the reason. Requests that fail are repeated;
    raises `OSError` if they still fail at the deadline.
    """
    end = time.monotonic() + deadline
    seen: set[str] = set()
    while True:
        failure: OSError | None = None
        left: dict[str, str] = {}
        try:
            for pod in filter(can_move, list_pods(api, node)):
                seen.add(pod_label(pod))
                left[pod_label(pod)] = "still stopping"
                if not pod["metadata"].get("deletionTimestamp") and (refused := evict_pod(api, pod)):
                    left[pod_label(pod)] = refused
        except OSError as error:
            failure = error
        if not failure and not left:
            break
        if time.monotonic() >= end:
            if failure:
                raise failure
            break
        say(f"{len(left)} of {len(seen)} pods are left" if not failure else explain_failure(failure))
        time.sleep(min(PAUSE, max(0.0, end - time.monotonic())))
    return {"moved": sorted(seen - left.keys()), "left": left}
