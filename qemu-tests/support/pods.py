"""Commands in the network of a pod. The container images of the tests have no programs for them."""

import json
import shlex
import time

from support.nodes import Node

FETCH = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode())"


def process_of(node: Node, selector: str, *, api: Node | None = None, timeout: float = 90.0) -> int:
    """Return the process of the first container of a running pod on `node`, which the server `api` knows.

    `api` is the node itself by default. After a power cut, the API still has the containers from before for some
    seconds.
    """
    end = time.monotonic() + timeout
    query = f"get pods -l {selector} --field-selector status.phase=Running -o json"
    while True:
        for pod in json.loads((api or node).kubectl(query))["items"]:
            container = pod["status"]["containerStatuses"][0].get("containerID", "").removeprefix("containerd://")
            process = node.run(f"ctr -n k8s.io tasks list | awk '$1 == \"{container}\" {{ print $2 }}'").strip()
            if process:
                return int(process)
        assert time.monotonic() < end, f"no pod {selector} runs"
        time.sleep(2)


def in_pod(node: Node, selector: str, command: str, *, api: Node | None = None, timeout: float = 90.0) -> str:
    """Run a command of the node in the network of a pod and with its resolv.conf, until it succeeds.

    `api` is a server that knows the pod, by default the node itself.
    """
    pid = process_of(node, selector, api=api)
    # The node's own nsswitch.conf asks systemd-resolved of the node instead of the name servers in resolv.conf.
    setup = (
        f"cat /proc/{pid}/root/etc/resolv.conf > /run/pod-resolv.conf",
        "mount --bind /run/pod-resolv.conf $(readlink -f /etc/resolv.conf)",
        "echo 'hosts: files dns' > /run/pod-nsswitch.conf",
        "mount --bind /run/pod-nsswitch.conf /etc/nsswitch.conf",
    )
    script = " && ".join((*setup, command))
    entered = f"nsenter --target {pid} --net unshare --mount sh -c {shlex.quote(script)}"
    end = time.monotonic() + timeout
    while True:
        result = node.guest.run(f"sudo sh -c {shlex.quote(entered)}", check=False)
        if result.status == 0 or time.monotonic() > end:
            assert result.status == 0, result.stdout + result.stderr
            return result.stdout.strip()
        time.sleep(2)


def fetch_in_pod(node: Node, selector: str, url: str, *, api: Node | None = None) -> str:
    """Return what a web server answers to a pod of `node`; see `in_pod`."""
    return in_pod(node, selector, f"python3 -c '{FETCH}' {url}", api=api)
