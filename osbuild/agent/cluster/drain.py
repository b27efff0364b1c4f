"""Has the pods of this node moved to other nodes before it goes down, as `kubectl drain` does.

By the eviction API, so that disruption budgets hold. Pods stay that no other node would run instead: those of a
DaemonSet, static ones, and those that belong to no controller, which an eviction would remove for good. They, and all
pods where there is no other node, are there again after the reboot, in place and with their data.
"""

import time
import urllib.error
from collections.abc import Callable
from typing import Any

from osbuild.agent.kubernetes.api import ApiServer, explain_failure, quote_path

PAUSE = 2.0  # seconds between two looks
MIRROR = "kubernetes.io/config.mirror"


def owner_kind(pod: dict[str, Any]) -> str:
    """The kind of what controls a pod, `static` for a static one, empty for one that nothing would make again."""
    if MIRROR in (pod["metadata"].get("annotations") or {}):
        return "static"
    found = (one for one in pod["metadata"].get("ownerReferences") or [] if one.get("controller"))
    return next((str(one["kind"]) for one in found), "")


def can_move(pod: dict[str, Any]) -> bool:
    """Whether another node would run it instead."""
    finished = pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
    return not finished and owner_kind(pod) not in ("", "static", "DaemonSet", "Node")


def pod_label(pod: dict[str, Any]) -> str:
    return f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"


def list_pods(api: ApiServer, node: str) -> list[dict[str, Any]]:
    """The pods of one node. Raises `OSError`."""
    found: list[dict[str, Any]] = api.call("GET", f"/api/v1/pods?fieldSelector=spec.nodeName%3D{quote_path(node)}")[
        "items"
    ]
    return found


def evict_pod(api: ApiServer, pod: dict[str, Any]) -> str | None:
    """Ask for one eviction; why it is refused for now, or None. Raises `OSError` where the server does not answer."""
    meta = {"name": pod["metadata"]["name"], "namespace": pod["metadata"]["namespace"]}
    path = f"/api/v1/namespaces/{quote_path(meta['namespace'])}/pods/{quote_path(meta['name'])}/eviction"
    try:
        api.call("POST", path, {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": meta})
    except urllib.error.HTTPError as error:
        return None if error.code == 404 else explain_failure(error)  # 429 is a disruption budget's no
    return None


def drain_node(api: ApiServer, node: str, deadline: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Evict until nothing that moves is left, or `deadline` seconds are over.

    Returns `moved`, pods that are gone, and `left`, those that are not with the reason. A server that does not answer
    for a moment is asked again; raises `OSError` where it does not answer at the end.
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
        say(f"{len(left)} of {len(seen)} pods still here" if not failure else explain_failure(failure))
        time.sleep(min(PAUSE, max(0.0, end - time.monotonic())))
    return {"moved": sorted(seen - left.keys()), "left": left}
