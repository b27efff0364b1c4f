"""This node in its cluster: taken out of scheduling for an update, and brought back.

An annotation says that it was us. It is set and removed in one patch with `unschedulable`, so that a node that somebody
else has cordoned is never touched, whatever happens in between, and it goes wherever the object goes: into a snapshot
and back. A file says on this side that there is something to be undone, so that it is done at the next good boot too.
"""

import urllib.error
from typing import Any

from osbuild.agent.kubernetes import datastore
from osbuild.agent.kubernetes.api import MERGE_PATCH, ApiServer, quote_path
from osbuild.agent.system import System
from osbuild.shared.files import sync_path, write_file

ANNOTATION = "edge-osbuild/cordoned"
CORDON_MARK = "/var/lib/kubernetes/cordoned"
MOST_CONFLICTS = 10  # times that another's change to the object may come between a look and a patch


def node_path(name: str) -> str:
    return f"/api/v1/nodes/{quote_path(name)}"


def patch_if_unchanged(api: ApiServer, name: str, patch: dict[str, Any], version: str) -> bool:
    """Patch the object if it is still what it was; whether it was."""
    metadata = {**patch.get("metadata", {}), "resourceVersion": version}
    try:
        api.call("PATCH", node_path(name), {**patch, "metadata": metadata}, kind=MERGE_PATCH)
        return True
    except urllib.error.HTTPError as error:
        if error.code != 409:
            raise
        return False


def get_node(api: ApiServer, name: str) -> dict[str, Any] | None:
    """The Node object; None where the cluster has none. Raises `OSError`."""
    try:
        found: dict[str, Any] = api.call("GET", node_path(name))
        return found
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
        return None


def is_cordoned_by_us(node: dict[str, Any]) -> bool:
    return ANNOTATION in (node["metadata"].get("annotations") or {})


def cordon_node(system: System, api: ApiServer, name: str) -> bool:
    """Have nothing new scheduled here. False where somebody else has seen to that already. Raises `OSError`."""
    for _ in range(MOST_CONFLICTS):
        node = api.call("GET", node_path(name))
        if node["spec"].get("unschedulable") and not is_cordoned_by_us(node):
            return False
        write_file(system.path(CORDON_MARK), b"", 0o600)
        if node["spec"].get("unschedulable"):
            return True
        patch = {"metadata": {"annotations": {ANNOTATION: "update"}}, "spec": {"unschedulable": True}}
        if patch_if_unchanged(api, name, patch, node["metadata"]["resourceVersion"]):
            return True
    raise OSError(f"node {name} changes all the time")


def uncordon_node(system: System, api: ApiServer, name: str) -> bool:
    """Take back what `cordon_node` did; False where there is nothing of it. Raises `OSError`."""
    for _ in range(MOST_CONFLICTS):
        node = get_node(api, name)
        if node is None or not is_cordoned_by_us(node):
            remove_cordon_mark(system)
            return False
        patch = {"metadata": {"annotations": {ANNOTATION: None}}, "spec": {"unschedulable": None}}
        if patch_if_unchanged(api, name, patch, node["metadata"]["resourceVersion"]):
            # A server elsewhere may lose what it has just said: the next boot looks once more.
            if datastore.find_database(system):
                remove_cordon_mark(system)
            return True
    raise OSError(f"node {name} changes all the time")


def has_cordon_mark(system: System) -> bool:
    """Whether something may have to be undone."""
    return system.path(CORDON_MARK).exists()


def remove_cordon_mark(system: System) -> None:
    """Remove the file, once a power cut can't undo what it speaks of."""
    mark = system.path(CORDON_MARK)
    if mark.exists():
        datastore.sync_to_disk(system)
        mark.unlink(missing_ok=True)  # `update commit` and edge-kubernetes-uncordon.service may both be at it
        sync_path(mark.parent)


def find_other_nodes(api: ApiServer, name: str) -> list[str]:
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
