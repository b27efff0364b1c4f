"""One server at a time: an update of a server node waits for its turn, and until the other servers can do without it.

A Lease in the cluster names the server whose turn it is (Kubernetes documentation, "Leases"). It is taken before the
node is cordoned, and given back when the node has rejoined. If its holder never returns, it expires; then the servers
that are left still have to be enough. Agent nodes are drained one by one by disruption budgets only.
"""

import datetime
import time
import urllib.error
from collections.abc import Callable
from typing import Any

from osbuild.agent.cluster.cordon import is_ready
from osbuild.agent.errors import Problem
from osbuild.agent.kubernetes import etcd
from osbuild.agent.kubernetes.api import MERGE_PATCH, ApiServer, explain_failure
from osbuild.shared.node_settings import API_PORT

LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"
LEASE = "edge-osbuild-update"
SERVERS = "/api/v1/nodes?labelSelector=node-role.kubernetes.io%2Fcontrol-plane%3Dtrue"
DURATION = 3600  # seconds until the turn of a server that does not return ends
PATIENCE = 7200.0  # seconds to wait for the turn
SILENCE = 1800.0  # seconds to wait for a cluster that does not answer
PAUSE = 5.0  # seconds between two attempts
FASTER = "another server begins to be updated"


def await_turn(api: ApiServer, name: str, say: Callable[[str], None], patience: float = PATIENCE) -> None:
    """Wait until the server node `name` may stop, and take the Lease. `say` reports what it waits for.

    Raises `Problem` if the other servers are not enough after `patience` seconds, and `OSError` if the cluster has not
    answered for `SILENCE` seconds. The Lease is not taken then.
    """
    end, told = time.monotonic() + patience, ""
    answered = time.monotonic()
    while True:
        try:
            reason = find_obstacle(api, name)
            if reason is None:
                return
            answered = time.monotonic()
        except OSError as error:
            if time.monotonic() >= min(end, answered + SILENCE):
                raise
            reason = explain_failure(error)
        if time.monotonic() >= end:
            hint = (
                "repair the other servers, or delete the nodes of those that are gone; then `edge-agent update switch`"
            )
            raise Problem(f"this server cannot be updated now: {reason}", hint=hint)
        if reason != told:
            say(f"waiting: {reason}")
            told = reason
        time.sleep(min(PAUSE, max(0.0, end - time.monotonic())))


def find_obstacle(api: ApiServer, name: str) -> str | None:
    """Take the Lease and return None if the server node `name` may stop now, otherwise why it may not.

    Raises `OSError`.
    """
    servers = api.call("GET", SERVERS)["items"]
    others = [node for node in servers if node["metadata"]["name"] != name]
    if not others:
        return None
    if reason := take_lease(api, name):
        return reason
    missing = [node["metadata"]["name"] for node in others if not (is_ready(node) and answers(api, node))]
    # A member of etcd that does not answer may be behind the others, and a second one could be needed for a quorum.
    has_etcd = any(etcd.ROLE in (node["metadata"].get("labels") or {}) for node in servers)
    needed = len(others) if has_etcd else needed_servers(len(servers))
    if len(others) - len(missing) >= needed:
        return None
    release_lease(api, name)
    return f"too few servers would be left, because these are not ready: {', '.join(sorted(missing))}"


def needed_servers(count: int) -> int:
    """How many other servers of `count` must be ready while one stops: a majority, and all if there are only two."""
    return min(count - 1, count // 2 + 1)


def answers(api: ApiServer, node: dict[str, Any]) -> bool:
    """Whether the API server of a node is ready, which needs a datastore that can be written."""
    addresses = [entry["address"] for entry in node["status"].get("addresses") or [] if entry["type"] == "InternalIP"]
    for address in addresses:
        host = f"[{address}]" if ":" in address else address
        try:
            return ApiServer(f"https://{host}:{API_PORT}", api.context).get_text("/readyz") == "ok"
        except OSError:
            continue
    return False


def take_lease(api: ApiServer, name: str) -> str | None:
    """Take or renew the Lease. Returns why that is not possible if it is another server's turn. Raises `OSError`."""
    now = datetime.datetime.now(datetime.UTC)
    spec = {
        "holderIdentity": name,
        "leaseDurationSeconds": DURATION,
        "renewTime": now.isoformat(timespec="microseconds").replace("+00:00", "Z"),
    }
    lease = api.find(f"{LEASES}/{LEASE}")
    if lease is None:
        return create_lease(api, spec)
    holder = (lease.get("spec") or {}).get("holderIdentity") or ""
    if holder not in ("", name) and not has_expired(lease["spec"], now):
        return f"server {holder} is being updated"
    metadata = {"resourceVersion": lease["metadata"]["resourceVersion"]}
    try:
        api.call("PATCH", f"{LEASES}/{LEASE}", {"metadata": metadata, "spec": spec}, kind=MERGE_PATCH)
    except urllib.error.HTTPError as error:
        if error.code != 409:
            raise
        return FASTER
    return None


def create_lease(api: ApiServer, spec: dict[str, Any]) -> str | None:
    """Create the Lease. Returns why that is not possible: another server was faster. Raises `OSError`."""
    try:
        api.call("POST", LEASES, {"metadata": {"name": LEASE}, "spec": spec})
    except urllib.error.HTTPError as error:
        if error.code != 409:
            raise
        return FASTER
    return None


def has_expired(spec: dict[str, Any], now: datetime.datetime) -> bool:
    """Whether the turn of the holder has ended, by the clock of this node."""
    try:
        renewed = datetime.datetime.fromisoformat(str(spec["renewTime"]))
        return now > renewed + datetime.timedelta(seconds=int(spec["leaseDurationSeconds"]))
    except (KeyError, TypeError, ValueError):
        return True


def release_lease(api: ApiServer, name: str) -> None:
    """Give the Lease back if this server has it. Raises `OSError`."""
    try:
        lease = api.call("GET", f"{LEASES}/{LEASE}")
        if (lease.get("spec") or {}).get("holderIdentity") == name:
            change = {
                "metadata": {"resourceVersion": lease["metadata"]["resourceVersion"]},
                "spec": {"holderIdentity": None},
            }
            api.call("PATCH", f"{LEASES}/{LEASE}", change, kind=MERGE_PATCH)
    except urllib.error.HTTPError as error:
        if error.code not in (404, 409):
            raise
