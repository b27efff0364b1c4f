"""One node of the shipped `edge-server` image, from a first boot without any network to a power cut.

The tests share one machine with `test_cluster_addons`, which follows, and depend on their order, because a boot under
emulation takes minutes.
"""

import ipaddress
import json
import re
import time

import pytest
from support.distributions import DistributionUnderTest
from support.nodes import BOOT, DEPLOYMENT, LARGER_DISK, MEMBER, Node, ServerNode

pytestmark = pytest.mark.alone
DEMO = (
    f"{DEPLOYMENT}---"
    + """
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
"""
)
LEFT = """ctr -n k8s.io containers ls -q 'labels."edge-osbuild/health"==sandbox'"""
# Types a text on a terminal with a login shell, and prints what appears until the expected text.
TYPE = """
import os, pty, select, sys, time
child, terminal = pty.fork()
if child == 0:
    os.execvp("bash", ["bash", "--login", "-i"])
shown, end = "", time.monotonic() + 120
def wait_for(text):
    global shown
    while text not in shown and time.monotonic() < end:
        if select.select([terminal], [], [], 1)[0]:
            shown += os.read(terminal, 4096).decode(errors="replace")
wait_for("$ ")
os.write(terminal, sys.argv[1].encode() + b"\\t")
wait_for(sys.argv[2])
print(shown)
sys.exit(sys.argv[2] not in shown)
"""
GET = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode())"


@pytest.fixture
def node(cluster_node: ServerNode) -> ServerNode:
    return cluster_node


def address(node: Node, kind: str) -> str:
    path = "{.items[0].status.podIP}" if kind == "pods" else "{.items[0].spec.clusterIP}"
    selector = "-l app=web" if kind == "pods" else "--field-selector metadata.name=web"
    return node.kubectl(f"get {kind} {selector} -o jsonpath={path}").strip()


def assert_answers(node: Node, timeout: float = 180.0) -> None:
    """Assert that the web server answers on the addresses of the pod and of the service."""
    # After a boot the pod gets another address, and the API returns the old one for a while.
    end = time.monotonic() + timeout
    for kind, port in (("pods", 8080), ("services", 80)):
        while True:
            url = f"http://{address(node, kind)}:{port}/"
            result = node.guest.run(f"python3 -c '{GET}' {url}", check=False)
            if result.status == 0 and "web-" in result.stdout:
                break
            assert time.monotonic() < end, f"{url}: {result.stdout}{result.stderr}"
            time.sleep(2)


def boot_counter(node: Node) -> tuple[str, str, int | None]:
    """Return the running slot, its state, and its tries left if it is on trial."""
    status = node.status()
    return status["slot"], status["boot"]["state"], status["boot"]["left"]


def test_a_first_boot_without_any_network_is_healthy_and_the_node_is_ready(node: Node) -> None:
    status = node.status()
    assert status["health"]["healthy"] is True
    results = {check["name"]: check["ok"] for check in status["health"]["checks"]}
    assert results.keys() >= {"40-containerd", "50-node", "60-pods"} and all(results.values())
    nodes = json.loads(node.kubectl("get nodes -o json"))["items"]
    assert [item["metadata"]["name"] for item in nodes] == ["site-1"]
    ready = [c["status"] for c in nodes[0]["status"]["conditions"] if c["type"] == "Ready"]
    assert ready == ["True"]


def test_a_server_node_shows_its_role(node: Node) -> None:
    node.wait_until("kubectl get nodes --no-headers | awk '{ print $3 }' | grep -qx control-plane", timeout=120)


def test_members_of_the_group_use_kubectl_and_nobody_else(node: Node) -> None:
    for command in ("kubectl", "kubectl --kubeconfig /etc/kubernetes/admin.conf"):
        assert "site-1" in node.run(f"runuser --login {MEMBER} --command '{command} get nodes'")
        assert "denied" in node.run_failing(f"runuser --user nobody -- {command} get nodes").lower()
    rights = node.run(f"runuser --login {MEMBER} --command 'kubectl auth can-i --list --no-headers'")
    assert re.search(r"^\*\.\* +\[\] +\[\] +\[\*\]", rights, re.MULTILINE), rights
    assert node.run("stat --format=%U:%G:%a --dereference /etc/kubernetes/admin.conf").strip() == "root:kubernetes:640"
    node.run_failing(f"runuser --user {MEMBER} -- test -x /var/lib/kubernetes")


def test_the_shell_completes_arguments_of_kubectl(node: Node) -> None:
    node.guest.put(TYPE.encode(), "/tmp/type.py")
    node.run("chmod 644 /tmp/type.py")
    typed = 'python3 /tmp/type.py "kubectl describe node sit" "describe node site-1"'
    node.run(f"runuser --login {MEMBER} --command '{typed}'")


def test_the_check_of_pods_says_where_a_sandbox_has_answered(node: Node) -> None:
    output = node.run("/usr/lib/edge-osbuild/edge-node sandbox")
    match = re.fullmatch(r"a pod sandbox answers at (\S+) after [\d.]+ s\n", output)
    assert match and ipaddress.ip_address(match[1]) in ipaddress.ip_network("10.42.0.0/16"), output


def test_the_check_of_pods_needs_no_api_server_and_leaves_nothing(
    node: Node, distribution: DistributionUnderTest
) -> None:
    """Also if a power cut or a kill has left a sandbox of an earlier proof."""
    node.run(f"/usr/lib/edge-osbuild/edge-node sandbox & until {LEFT} | grep -q .; do :; done; kill -9 $!; wait")
    node.run(f"systemctl kill --signal=STOP {distribution.units[0]}")
    try:
        node.run("/usr/lib/edge-osbuild/edge-node sandbox")
    finally:
        node.run(f"systemctl kill --signal=CONT {distribution.units[0]}")
    assert node.run(LEFT) == ""
    assert node.run("find /sys/fs/cgroup -name 'cri-containerd*' -not -path '*/kubepods*'") == ""


def test_the_root_can_be_neither_written_nor_remounted(node: Node) -> None:
    assert "Read-only file system" in node.run_failing("touch /usr/bin/new")
    node.run_failing("mount -o remount,rw /")
    assert "Read-only file system" in node.run_failing("touch /usr/bin/new")
    node.run_failing("dd if=/dev/zero of=/dev/dm-0 bs=4096 count=1 conv=nocreat,notrunc,fsync")
    node.run_failing("dmsetup reload root --table '0 8 zero'")
    assert node.run("findmnt -no FSTYPE /").strip() == "erofs"


def test_no_key_is_in_the_image(node: Node) -> None:
    key_files = node.run("find / -xdev -type f \\( -name '*.key' -o -name 'ssh_host_*' -o -name 'id_*' \\)")
    assert key_files.split() == []
    # Status 1 means that grep has read everything and found nothing; an error would be 2 (grep(1)).
    folders = "/usr/lib/edge-osbuild /usr/share/ca-certificates"
    assert node.run(f"grep -rlE 'BEGIN (EC |RSA |OPENSSH )?PRIVATE KEY' {folders}; test $? -eq 1") == ""


def test_the_data_partition_fills_a_larger_disk(node: Node) -> None:
    sizes = node.run("lsblk -bnro SIZE,PARTLABEL,TYPE").splitlines()
    disk = max(int(line.split()[0]) for line in sizes if line.endswith("disk"))
    data = next(int(line.split()[0]) for line in sizes if " data " in line)
    assert data > LARGER_DISK
    assert disk - data < 2.5 * 2**30, "what the ESP and two slots of 1 GiB take"
    assert int(node.run("df -B1 --output=size /var | tail -n 1")) > 0.9 * data


def test_a_good_boot_clears_the_boot_counter(node: Node) -> None:
    node.wait_until('edge-agent status --json | grep -q \'"state": "good"\'', timeout=60)
    assert boot_counter(node) == ("a", "good", None)


def test_a_pod_from_a_baked_in_image_answers_on_its_pod_and_service_address(node: Node) -> None:
    node.guest.put(DEMO.encode(), "/tmp/demo.yaml")
    node.kubectl("apply -f /tmp/demo.yaml")
    node.wait_rolled_out("web", 180)
    assert_answers(node)


@pytest.mark.slow  # `make test` has the power cut of test_cluster_addons
def test_a_reboot_keeps_the_cluster_and_var_and_drops_a_change_in_etc(node: Node) -> None:
    node.kubectl("create configmap kept --from-literal=when=before")
    # Like an update before its reboot.
    node.run("touch /var/lib/kubernetes/cordoned")
    node.kubectl("annotate node site-1 edge-osbuild/cordoned=update")
    node.kubectl("cordon site-1")
    node.run("echo kept > /var/lib/kept; echo changed > /etc/changed; sync")
    machine_id = node.run("cat /etc/machine-id")
    node.machine.console.skip()
    node.guest.reboot(BOOT)
    node.wait_complete()
    assert node.run("cat /var/lib/kept").strip() == "kept"
    node.run_failing("test -e /etc/changed")
    assert node.run("cat /etc/machine-id") == machine_id
    assert node.kubectl("get configmap kept -o jsonpath={.data.when}").strip() == "before"
    assert_answers(node)


@pytest.mark.slow
def test_at_shutdown_pods_end_before_everything_else_and_are_restarted_not_replaced(
    node: Node, distribution: DistributionUnderTest
) -> None:
    output = node.run("journalctl --boot=-1 --output=cat --unit=edge-pods.service")
    assert re.search(r"rank 0: 1 stopped\n(rank \d: .*\n)*rank 9: ", output), output
    lines = node.run("journalctl --boot=-1 --output=json JOB_TYPE=stop JOB_RESULT=done").splitlines()
    stopped = [json.loads(line)["UNIT"] for line in lines]
    for unit in distribution.units:
        if unit == distribution.kubelet:  # the kubelet ends first: it would restart containers
            continue
        assert stopped.index("edge-pods.service") < stopped.index(unit), stopped
    pods = json.loads(node.kubectl("get pods -l app=web -o json"))["items"]
    assert [pod["status"]["containerStatuses"][0]["restartCount"] > 0 for pod in pods] == [True], "started anew"


@pytest.mark.slow
def test_after_the_reboot_the_node_is_schedulable_again(node: Node) -> None:
    node.wait_until("test ! -e /var/lib/kubernetes/cordoned", timeout=120)
    node_object = json.loads(node.kubectl("get node site-1 -o json"))
    assert "unschedulable" not in node_object["spec"]
    assert "edge-osbuild/cordoned" not in node_object["metadata"]["annotations"]


@pytest.mark.slow  # `make test` has the power cut of test_cluster_addons
def test_a_power_cut_keeps_the_cluster_and_var(node: Node) -> None:
    node.kubectl("create configmap cut --from-literal=when=just-before")
    node.run("echo kept > /var/lib/cut; sync")
    # A new pod, whose files containerd and its plugins have not synced yet, must survive.
    node.kubectl("delete pod -l app=web")
    node.wait_rolled_out("web")
    # The sandbox of a running health check must be removed after the cut.
    node.run(f"/usr/lib/edge-osbuild/edge-node sandbox & until {LEFT} | grep -q .; do :; done")
    node.power_cycle()
    # The boot is committed when the check's own sandbox has answered, before that is removed.
    node.wait_until(f'test -z "$({LEFT})"', timeout=60)
    assert node.run("cat /var/lib/cut").strip() == "kept"
    assert node.kubectl("get configmap cut -o jsonpath={.data.when}").strip() == "just-before"
    assert boot_counter(node) == ("a", "good", None), "a power cut is no failed boot"
    node.wait_rolled_out("web")
    assert_answers(node)


@pytest.mark.slow
def test_a_power_cut_while_images_were_imported_leaves_no_empty_files(node: Node) -> None:
    """As in `test_sandbox`, with a cluster and its pod."""
    emptied = node.run("find /var/lib/containerd/*overlayfs/snapshots/*/fs/demo -print -exec truncate --size=0 {} +")
    assert emptied, "the image is unpacked"
    node.run("cd /var/lib/containerd/edge-images && read digest < /usr/lib/edge-osbuild/images/demo.sha256"
             " && mv $digest $digest.begun && sync")  # fmt: skip
    node.power_cycle()
    node.wait_rolled_out("web")
    assert_answers(node)
