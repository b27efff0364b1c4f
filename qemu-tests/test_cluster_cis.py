"""The CIS Kubernetes Benchmark on a real server node: every section that docs/cis.md says is met.

The tests go on with the machine of `test_cluster`.
"""

import re

import pytest
from support.cis import CHECKS, SecuritySettings, read_settings
from support.distributions import DistributionUnderTest
from support.nodes import Node

from osbuild.host import paths

pytestmark = pytest.mark.alone
READ_SECRET = """
import sqlite3
database = sqlite3.connect("file:/var/lib/kubernetes/server/db/state.db?mode=ro", uri=True)
rows = database.execute("SELECT value FROM kine WHERE name = '/registry/secrets/default/account'").fetchall()
print(bytes(rows[-1][0]).decode(errors="replace"))
"""
ROW = re.compile(r"^\| ([0-9]+(?:\.[0-9]+)+) \| [^|]+ \| ([a-z0-9 ]+) \|", re.MULTILINE)


@pytest.fixture(scope="module")
def settings(cluster_node: Node, distribution: DistributionUnderTest) -> SecuritySettings:
    return read_settings(cluster_node, distribution)


def test_every_section_that_is_met_has_a_check() -> None:
    rows = dict(ROW.findall((paths.PROJECT / "docs/cis.md").read_text()))
    assert {section for section, state in rows.items() if state == "met"} == set(CHECKS)
    assert set(rows.values()) == {"met", "met by k3s", "partly", "not met", "not applicable", "up to you"}


def test_a_server_meets_the_sections(settings: SecuritySettings) -> None:
    failed = []
    for section, check in CHECKS.items():
        try:
            met = check(settings)
        except (AssertionError, KeyError, ValueError) as error:
            failed.append(f"{section}: {type(error).__name__}: {error}")
        else:
            failed += [] if met else [section]
    assert failed == []


def test_a_pod_has_the_runtimes_profiles_of_seccomp_and_apparmor_and_a_limit_of_processes(cluster_node: Node) -> None:
    cluster_node.kubectl("run limited --image=localhost/edge-demo:1 --image-pull-policy=Never")
    cluster_node.kubectl("wait --for=condition=Ready pod/limited --timeout=120s")
    container = cluster_node.kubectl("get pod limited -o jsonpath={.status.containerStatuses[0].containerID}").strip()
    tasks = cluster_node.run("ctr -n k8s.io tasks list")
    (process,) = re.findall(rf"^{container.removeprefix('containerd://')}\s+(\d+)", tasks, re.MULTILINE)
    assert "Seccomp:\t2\n" in cluster_node.run(f"cat /proc/{process}/status"), "2: a filter (proc(5))"
    assert cluster_node.run(f"cat /proc/{process}/attr/current") == "cri-containerd.apparmor.d (enforce)\n"
    cgroup = cluster_node.run(f"cat /proc/{process}/cgroup").strip().partition("::")[2]
    assert cluster_node.run(f"cat /sys/fs/cgroup{cgroup.rpartition('/')[0]}/pids.max").strip() == "4096"


def test_a_secret_is_encrypted_on_the_disk_and_recorded_without_its_contents(cluster_node: Node) -> None:
    cluster_node.kubectl("create secret generic account --from-literal=password=hunter2")
    cluster_node.guest.put(READ_SECRET.encode(), "/tmp/read-secret.py")
    stored = cluster_node.run("python3 /tmp/read-secret.py")
    assert re.match(r"k8s:enc:(secretbox|aescbc):v1:", stored) and "hunter2" not in stored
    log = cluster_node.run("tail -n 500 /var/lib/kubernetes/server/logs/audit.log")
    assert '"resource":"secrets","namespace":"default","name":"account"' in log and "hunter2" not in log
