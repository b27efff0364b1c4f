"""The state of the cluster as far as this node may read it: nodes, pods and recent events, as lines of text."""

import json
from collections.abc import Iterator
from typing import Any

from osbuild.agent.errors import Problem
from osbuild.agent.kubernetes.api import ApiServer, connect_api, explain_failure
from osbuild.agent.kubernetes.settings import load_settings
from osbuild.agent.system import System

MOST_OBJECTS = 500  # of each kind


def describe_cluster(system: System) -> str:
    """Return the state of the cluster as text; never raises."""
    try:
        settings = load_settings(system.root)
        if settings.role == "none":
            return "this node has no Kubernetes\n"
        api = connect_api(system.root, settings)
        lines = list(cluster_lines(api, settings.node_name, whole=settings.role == "server"))
    except (Problem, OSError) as error:
        return f"the cluster's state is not known: {error}\n"
    return "".join(f"{line}\n" for line in lines)


def cluster_lines(api: ApiServer, node: str, *, whole: bool) -> Iterator[str]:
    """Yield lines about the whole cluster, or about this node and its pods: an agent node may read no more."""
    nodes = "/api/v1/nodes" if whole else f"/api/v1/nodes/{node}"
    pods = "/api/v1/pods" if whole else f"/api/v1/pods?fieldSelector=spec.nodeName%3D{node}"
    yield from titled_lines(api, "nodes", nodes, node_line)
    yield from titled_lines(api, "pods", f"{pods}{'&' if '?' in pods else '?'}limit={MOST_OBJECTS}", pod_line)
    if whole:
        yield from titled_lines(api, "events", f"/api/v1/events?limit={MOST_OBJECTS}", event_text)


def titled_lines(api: ApiServer, title: str, path: str, describe: Any) -> Iterator[str]:
    """Yield a title, and a line for each object at `path`, or why that is not known."""
    yield f"{title}:"
    try:
        answer = api.call("GET", path)
        objects = answer.get("items", [answer])
        for entry in objects:
            yield f"  {describe(entry)}"
    except (OSError, AttributeError, TypeError, KeyError) as error:
        yield f"  {explain_failure(error)}"


def node_line(node: dict[str, Any]) -> str:
    """Return a node as one line: its version, and the conditions that are not as they should be."""
    status = node.get("status", {})
    conditions = {entry["type"]: entry for entry in status.get("conditions", [])}
    ready = conditions.pop("Ready", {})
    problems = [name for name, entry in conditions.items() if entry.get("status") == "True"]
    words = [
        node["metadata"]["name"],
        str(status.get("nodeInfo", {}).get("kubeletVersion")),
        "Ready" if ready.get("status") == "True" else f"not Ready: {ready.get('message', 'unknown')}",
        "cordoned" if node.get("spec", {}).get("unschedulable") else "",
        *problems,
    ]
    return " ".join(word for word in words if word)


def pod_line(pod: dict[str, Any]) -> str:
    """Return a pod as one line, without its environment, which may contain secrets."""
    metadata, status = pod["metadata"], pod.get("status", {})
    containers = status.get("containerStatuses", [])
    restarts = sum(int(entry.get("restartCount", 0)) for entry in containers)
    reasons = {reason for entry in containers if (reason := waiting_reason(entry))}
    words = [f"{metadata['namespace']}/{metadata['name']}", str(status.get("phase")), f"restarts {restarts}"]
    return " ".join([*words, *sorted(reasons), str(pod.get("spec", {}).get("nodeName", ""))]).strip()


def waiting_reason(container: dict[str, Any]) -> str:
    """Return why a container waits or has ended; empty if it runs."""
    state = container.get("state", {})
    return str((state.get("waiting") or state.get("terminated") or {}).get("reason", ""))


def event_text(event: dict[str, Any]) -> str:
    """Return an event as one line."""
    about = event.get("involvedObject", {})
    words = (event.get("lastTimestamp"), event.get("type"), event.get("reason"), about.get("kind"), about.get("name"))
    message = json.dumps(event.get("message", ""))
    return " ".join(str(word) for word in (*words, message) if word)
