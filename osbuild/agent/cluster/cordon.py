"""Cordons this node for an update, and uncordons it.

An annotation records that an update has cordoned the node. It is set and removed in the same patch as `unschedulable`,
so a node that somebody else has cordoned is never changed, and both are part of the same snapshot. A file on the data
partition records that the node may have to be uncordoned, so that this is also done at the next good boot.
"""

import urllib.error
from typing import Any

from osbuild.agent.kubernetes import datastore
from osbuild.agent.kubernetes.api import MERGE_PATCH, ApiServer, quote_path
from osbuild.agent.system import System
from osbuild.shared.files import sync_path, write_file

ANNOTATION = "edge-osbuild/cordoned"
CORDON_MARK = "/var/lib/kubernetes/cordoned"
MOST_CONFLICTS = 10  # attempts; another program may change the object between read and patch


def node_path(name: str) -> str:
    return f"/api/v1/nodes/{quote_path(name)}"


def patch_if_unchanged(api: ApiServer, name: str, patch: dict[str, Any], version: str) -> bool:
    """Patch the Node if its resourceVersion is still `version`. Returns whether it was. Raises `OSError`."""
    metadata = {**patch.get("metadata", {}), "resourceVersion": version}
    try:
        api.call("PATCH", node_path(name), {**patch, "metadata": metadata}, kind=MERGE_PATCH)
        return True
    except urllib.error.HTTPError as error:
        if error.code != 409:
            raise
        return False


def get_node(api: ApiServer, name: str) -> dict[str, Any] | None:
    """The Node object; None if it does not exist. Raises `OSError`."""
    node: dict[str, Any] | None = api.find(node_path(name))
    return node


def is_cordoned_by_us(node: dict[str, Any]) -> bool:
    return ANNOTATION in (node["metadata"].get("annotations") or {})


def cordon_node(system: System, api: ApiServer, name: str) -> bool:
    """Cordon the node. Returns False if somebody else has cordoned it already. Raises `OSError`."""
    for _ in range(MOST_CONFLICTS):
        node = api.call("GET", node_path(name))
        if node["spec"].get("unschedulable") and not is_cordoned_by_us(node):
            return False
        write_cordon_mark(system)
        if node["spec"].get("unschedulable"):
            return True
        patch = {"metadata": {"annotations": {ANNOTATION: "update"}}, "spec": {"unschedulable": True}}
        if patch_if_unchanged(api, name, patch, node["metadata"]["resourceVersion"]):
            return True
    raise OSError(f"node {name} is changed too often by other programs")


def uncordon_node(system: System, api: ApiServer, name: str) -> bool:
    """Uncordon the node. Returns False if no update has cordoned it. Raises `OSError`."""
    for _ in range(MOST_CONFLICTS):
        node = get_node(api, name)
        if node is None or not is_cordoned_by_us(node):
            remove_cordon_mark(system)
            return False
        patch = {"metadata": {"annotations": {ANNOTATION: None}}, "spec": {"unschedulable": None}}
        if patch_if_unchanged(api, name, patch, node["metadata"]["resourceVersion"]):
            # A server on another node may lose this change, so an agent node checks again at the next boot.
            if datastore.find_database(system):
                remove_cordon_mark(system)
            return True
    raise OSError(f"node {name} is changed too often by other programs")


def write_cordon_mark(system: System) -> None:
    """Record on the disk that the node may have to be uncordoned. Raises `OSError`."""
    write_file(system.path(CORDON_MARK), b"", 0o600)


def has_cordon_mark(system: System) -> bool:
    """Whether the node may have to be uncordoned."""
    return system.path(CORDON_MARK).exists()


def remove_cordon_mark(system: System) -> None:
    """Remove the mark after the change of the Node is on the disk. Raises `OSError`."""
    mark = system.path(CORDON_MARK)
    if mark.exists():
        datastore.sync_to_disk(system)
        mark.unlink(
            missing_ok=True
        )  # `update commit` and edge-kubernetes-uncordon.service may do this at the same time
        sync_path(mark.parent)


def find_other_nodes(api: ApiServer, name: str) -> list[str]:
    """Names of other nodes that accept pods: Ready, not cordoned, without a NoSchedule or NoExecute taint."""
    return [
        node["metadata"]["name"]
        for node in api.call("GET", "/api/v1/nodes")["items"]
        if node["metadata"]["name"] != name
        and not node["spec"].get("unschedulable")
        and not any(taint["effect"] in ("NoSchedule", "NoExecute") for taint in node["spec"].get("taints") or [])
        and is_ready(node)
    ]


def is_ready(node: dict[str, Any]) -> bool:
    """Whether a node is Ready."""
    conditions = node.get("status", {}).get("conditions") or []
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
