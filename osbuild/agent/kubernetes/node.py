"""This node in its cluster: taken out of scheduling for an update, and brought back.

An annotation says that it was us. It is set and removed in one patch with `unschedulable`, so that a node that somebody
else has cordoned is never touched, whatever happens in between, and it goes wherever the object goes: into a snapshot
and back. A file says on this side that there is something to be undone, so that it is done at the next good boot too.
"""

import urllib.error
from typing import Any

from osbuild.agent.kubernetes import datastore
from osbuild.agent.kubernetes.api import MERGE, Api, quoted
from osbuild.agent.system import System, flush, write

ANNOTATION = "edge-osbuild/cordoned"
MARK = "/var/lib/kubernetes/cordoned"
CONFLICTS = 10  # times that another's change to the object may come between a look and a patch


def path(name: str) -> str:
    return f"/api/v1/nodes/{quoted(name)}"


def change(api: Api, name: str, patch: dict[str, Any], version: str) -> bool:
    """Patch the object if it is still what it was; whether it was."""
    metadata = {**patch.get("metadata", {}), "resourceVersion": version}
    try:
        api.call("PATCH", path(name), {**patch, "metadata": metadata}, kind=MERGE)
        return True
    except urllib.error.HTTPError as error:
        if error.code != 409:
            raise
        return False


def look(api: Api, name: str) -> dict[str, Any] | None:
    """The Node object; None where the cluster has none. Raises `OSError`."""
    try:
        found: dict[str, Any] = api.call("GET", path(name))
        return found
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
        return None


def ours(node: dict[str, Any]) -> bool:
    return ANNOTATION in (node["metadata"].get("annotations") or {})


def cordon(system: System, api: Api, name: str) -> bool:
    """Have nothing new scheduled here. False where somebody else has seen to that already. Raises `OSError`."""
    for _ in range(CONFLICTS):
        node = api.call("GET", path(name))
        if node["spec"].get("unschedulable") and not ours(node):
            return False
        write(system.path(MARK), b"", 0o600)
        if node["spec"].get("unschedulable"):
            return True
        patch = {"metadata": {"annotations": {ANNOTATION: "update"}}, "spec": {"unschedulable": True}}
        if change(api, name, patch, node["metadata"]["resourceVersion"]):
            return True
    raise OSError(f"node {name} changes all the time")


def uncordon(system: System, api: Api, name: str) -> bool:
    """Take back what `cordon` did; False where there is nothing of it. Raises `OSError`."""
    for _ in range(CONFLICTS):
        node = look(api, name)
        if node is None or not ours(node):
            forget(system)
            return False
        patch = {"metadata": {"annotations": {ANNOTATION: None}}, "spec": {"unschedulable": None}}
        if change(api, name, patch, node["metadata"]["resourceVersion"]):
            # A server elsewhere may lose what it has just said: the next boot looks once more.
            if datastore.file(system):
                forget(system)
            return True
    raise OSError(f"node {name} changes all the time")


def marked(system: System) -> bool:
    """Whether something may have to be undone."""
    return system.path(MARK).exists()


def forget(system: System) -> None:
    """Remove the file, once a power cut can't undo what it speaks of."""
    mark = system.path(MARK)
    if mark.exists():
        datastore.settle(system)
        mark.unlink(missing_ok=True)  # `update commit` and edge-kubernetes-uncordon.service may both be at it
        flush(mark.parent)


def others(api: Api, name: str) -> list[str]:
    """Nodes that would take pods from this one: Ready, not cordoned, without a taint that keeps pods off."""
    return [
        node["metadata"]["name"]
        for node in api.call("GET", "/api/v1/nodes")["items"]
        if node["metadata"]["name"] != name
        and not node["spec"].get("unschedulable")
        and not any(taint["effect"] in ("NoSchedule", "NoExecute") for taint in node["spec"].get("taints") or [])
        and any(
            condition["type"] == "Ready" and condition["status"] == "True"
            for condition in node.get("status", {}).get("conditions") or []
        )
    ]
