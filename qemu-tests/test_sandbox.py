"""The health check of pods with the programs of the built image: containerd, runc, CNI plugins, `pause`, `edge-node`.

They run on this host in their own namespaces, without a machine and without Kubernetes.
"""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from osbuild.agent.kubernetes import pod_network
from osbuild.shared.node_settings import NodeSettings

PAUSE = "ctr -n k8s.io images import /usr/lib/edge-osbuild/images/pause.tar > /dev/null\n"
PROOF = "/usr/lib/edge-osbuild/edge-node sandbox"
LEFT = """ctr -n k8s.io containers ls -q 'labels."edge-osbuild/health"==sandbox'"""
Run = Callable[..., str]


@pytest.fixture
def run(image: Callable[[str | Path], Path], tmp_path: Path) -> Run:
    """Runs a script beside containerd, and returns its output. `config` is a CNI network, None for no network."""
    root = image("edge-server") / "root.erofs"

    def run(script: str, config: dict[str, Any] | None) -> str:
        for name in ("rw", "lower", "root", "net.d"):
            (tmp_path / name).mkdir()
        if config is not None:
            (tmp_path / "net.d/10-test.conflist").write_text(json.dumps(config))
        (tmp_path / "script").write_text(script)
        unshare = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "sh"]
        command: list[str | Path] = [
            *unshare,
            Path(__file__).with_name("containers.sh"),
            tmp_path,
            root,
            tmp_path / "script",
        ]
        result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    return run


BRIDGE = pod_network.cni_config(NodeSettings(role="server").pod_cidrs, 1450)


def test_a_sandbox_of_the_images_own_pause_answers_at_its_address_and_is_removed(run: Run) -> None:
    output = run(f"{PAUSE}{PROOF}\n{PROOF}\n{LEFT}\nls /run/cni/networks/edge /run/netns", BRIDGE)
    first, second, *leftovers = output.splitlines()
    for line in (first, second):
        assert re.fullmatch(r"a pod sandbox answers at 10\.42\.0\.\d+ after [\d.]+ s", line), output
    assert not [line for line in leftovers if "10.42.0" in line or "cni-" in line or len(line) == 64], output


def test_a_sandbox_that_the_kubelet_stops_before_it_answers_is_replaced(run: Run) -> None:
    """The kubelet stops sandboxes that it does not know. This stops the first one, so that it never answers."""
    stop = (
        "until file=$(grep -lx pause /proc/[0-9]*/comm 2> /dev/null); do :; done\n"
        "pid=${file#/proc/}; pid=${pid%%/*}; kill -STOP $pid; sleep 3; kill -KILL $pid"
    )
    output = run(f"{PAUSE}{{ {stop}; }} &\n{PROOF}\n{LEFT}", BRIDGE)
    first, second, *leftovers = output.splitlines()
    assert first == "a pod sandbox was stopped before it answered and another one is started", output
    assert re.fullmatch(r"a pod sandbox answers at \S+ after \S+ s", second) and not leftovers, output


def test_systemd_is_notified_if_a_sandbox_has_answered_and_only_then(run: Run) -> None:
    """As for a service of Type=notify (sd_notify(3))."""
    listen = (
        "import os, socket, subprocess, sys\n"
        "listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
        "listener.bind('/run/notify')\n"
        "status = subprocess.run(sys.argv[1:], env={**os.environ, 'NOTIFY_SOCKET': '/run/notify'}).returncode\n"
        "listener.settimeout(0)\n"
        "try: message = listener.recv(100)\n"
        "except BlockingIOError: message = None\n"
        "print(status, message)\n"
        "os.unlink('/run/notify')"
    )
    listening = f'python3 -c "{listen}" {PROOF}'
    output = run(f"{listening} 2> /dev/null\n{PAUSE}{listening}", BRIDGE)
    failed, answer, succeeded = output.splitlines()
    assert failed == "1 None" and succeeded == "0 b'READY=1'" and answer.startswith("a pod sandbox answers"), output


def test_remains_of_a_kill_or_a_power_cut_are_removed_by_the_next_check(run: Run) -> None:
    # When the task has its folder, the container exists. Asking `ctr` for it may take longer than the whole proof.
    tasks = "/run/containerd/io.containerd.runtime.v2.task/k8s.io"
    interrupt = f"{PROOF} & until ls {tasks} 2> /dev/null | grep -q .; do sleep 0.02; done; kill -9 $!\n"
    output = run(f"{PAUSE}{interrupt}{LEFT} | wc -l\n{PROOF}\n{LEFT} | wc -l", BRIDGE)
    assert re.fullmatch(r"1\na pod sandbox answers at \S+ after \S+ s\n0\n", output), output


def test_a_container_that_only_containerd_knows_is_removed_with_its_processes_and_files(run: Run) -> None:
    """A power cut may leave a container that containerd's CRI, and so the kubelet, never lists."""
    label = "--label edge-osbuild/health=sandbox localhost/edge-pause:1"
    create = f"ctr -n k8s.io run --detach {label} running\nctr -n k8s.io containers create {label} created\n"
    list_leftovers = "ctr -n k8s.io tasks ls -q\nctr -n k8s.io snapshots ls | sed -n '/running/p; /created/p'"
    output = run(f"{PAUSE}{create}{LEFT} | wc -l\n{PROOF}\n{LEFT}\n{list_leftovers}", BRIDGE)
    assert re.fullmatch(r"2\na pod sandbox answers at \S+ after \S+ s\n", output), output


def test_images_are_imported_again_after_an_interrupted_import(run: Run) -> None:
    """After a power cut containerd may know an image although its files are empty. It never checks them again."""
    restart = "containerd > /run/containerd.log 2>&1 &\nuntil ctr version > /dev/null 2>&1; do sleep 0.1; done\n"
    stop = "kill -KILL $!; wait $! || [ $? -eq 137 ]\n"
    damage = (
        f"{stop}"
        "find /var/lib/containerd/*overlayfs/snapshots/*/fs -type f -exec truncate --size=0 {} +\n"
        "for stamp in /var/lib/containerd/edge-images/*; do mv $stamp $stamp.begun; done\n"
    )
    repair = (
        f"{stop}"
        "sed -n s/^ExecStart=//p /usr/lib/systemd/system/edge-images-interrupted.service > /run/repair\n"
        "sh -e /run/repair; ls -A /var/lib/containerd\n"
    )
    imported = "/usr/lib/edge-osbuild/import-images > /dev/null\n"
    script = (
        f"{imported}{PROOF}\n{damage}{restart}{PROOF} > /dev/null 2>&1 && exit 1\n{repair}{restart}{imported}{PROOF}"
    )
    output = run(script, BRIDGE)
    assert re.fullmatch(r"(a pod sandbox answers at \S+ after \S+ s\n){2}", output), output


def test_images_that_only_another_version_has_are_not_kept_from_garbage_collection(run: Run) -> None:
    """After an update, and after a rollback, when they are imported again."""
    images = "/usr/lib/edge-osbuild/images"
    pinned = "ctr -n k8s.io images ls -q 'labels.\"io.cri-containerd.pinned\"==pinned' | grep -E 'demo|pause'\n"
    imported = "/usr/lib/edge-osbuild/import-images > /dev/null\n"
    stamps = f"ls /var/lib/containerd/edge-images | grep -cxf {images}/demo.sha256 || true\n"
    script = (
        f"{imported}{pinned}{stamps}mkdir /run/aside; mv {images}/demo.* /run/aside\n{imported}{pinned}"
        f"mv /run/aside/demo.* {images}\n{stamps}{imported}{pinned}{stamps}"
    )
    demo, pause = "localhost/edge-demo:1", "localhost/edge-pause:1"
    assert run(script, BRIDGE).split() == [demo, pause, "1", pause, "0", demo, pause, "1"]


def test_a_node_whose_pods_cannot_start_reports_why(run: Run) -> None:
    output = run(f"{PROOF} 2>&1 && exit 1\n{LEFT}", BRIDGE)
    assert "no pod sandbox starts" in output and "localhost/edge-pause:1" in output, "its image is missing"


def test_a_node_without_a_pod_network_reports_it(run: Run) -> None:
    assert "NetworkReady" in run(f"{PAUSE}{PROOF} 2>&1 && exit 1\ntrue", None)


def test_a_failing_pod_network_fails_the_check(run: Run) -> None:
    config = {**BRIDGE, "plugins": [{**BRIDGE["plugins"][0], "ipam": {"type": "static", "addresses": []}}]}
    output = run(f"{PAUSE}{PROOF} 2>&1 && exit 1\n{LEFT}", config)
    assert re.match("no pod sandbox starts|a pod sandbox got no address", output), output


def test_if_the_plugin_may_need_the_api_server_the_nodes_network_is_used(run: Run) -> None:
    """A plugin of another project may ask the API server about the pod, which does not know this pod."""
    config = {**BRIDGE, "plugins": [{**BRIDGE["plugins"][0], "type": "another"}]}
    output = run(f"{PAUSE}cp /usr/lib/cni/bridge /usr/lib/cni/another\n{PROOF}", config)
    assert "on the node's network (the plugin another needs a pod of the cluster)" in output, output
