"""An agent node whose server is off."""

import json

from support.nodes import BOOT, Node

ASK = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:8080/', timeout=5).read().decode())"
TASKS = "ctr -n k8s.io tasks list | awk 'NR > 1 { print $2 }'"


def boot_agent_alone(server: Node, agent: Node, pod: str) -> str:
    """Cut the power of both nodes while `pod` runs on the agent, boot the agent only, and wait until the pod answers.

    Returns the UID that the pod had before.
    """
    identifier: str = json.loads(server.kubectl(f"get pod {pod} -o json"))["metadata"]["uid"]
    agent.wait_until(f"grep -rlq {identifier} /var/lib/kubernetes/node-objects", timeout=60)
    agent.run("sync")
    server.machine.power_cut()
    agent.machine.power_cut()
    agent.machine.boot_again()
    agent.guest.wait_ready(BOOT)
    pods = f'for pid in $({TASKS}); do nsenter --target $pid --net python3 -c "{ASK}" | grep -q {pod} && exit 0; done'
    agent.wait_until(f"{pods}; exit 1", timeout=300)
    return identifier
