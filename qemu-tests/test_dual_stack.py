"""Clusters with IPv6, with the programs of the built image in network namespaces of this
host: two nodes, of which one joins the other, connect their pods by VXLAN, and reach a service.

They need no machine, and no kubelet: the test makes the Node objects and starts the pods.
"""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # 2 minutes each: an API server


@dataclass(frozen=True)
class Families:
    pods: str
    services: str
    server: str
    agent: str
    name: str

    @property
    def script(self) -> str:
        """The settings for `two_nodes.sh`."""
        return (
            f"PODS={self.pods} SERVICES={self.services} SERVER={self.server} AGENT={self.agent} FAMILIES={self.name}\n"
        )


DUAL = Families("10.42.0.0/16,fd00:42::/56", "10.43.0.0/16,fd00:43::/112", "192.0.2.1,fd00:1::1",
                "192.0.2.2,fd00:1::2", "both")  # fmt: skip
SIX = Families("fd00:42::/56", "fd00:43::/112", "fd00:1::1", "fd00:1::2", "6")


@pytest.fixture
def run_nodes(image: Callable[[str | Path], Path], tmp_path: Path) -> Callable[[Families], list[str]]:
    root = image("edge-server") / "root.erofs"

    def run_nodes(families: Families) -> list[str]:
        for name in ("rw", "lower", "root", "net.d"):
            (tmp_path / name).mkdir()
        script = tmp_path / "script"
        script.write_text(families.script + Path(__file__).with_name("two_nodes.sh").read_text())
        unshare = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "sh"]
        command: list[str | Path] = [*unshare, Path(__file__).with_name("containers.sh"), tmp_path, root, script]
        result = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout.splitlines()

    return run_nodes


def test_pods_and_services_of_a_dual_stack_cluster_have_both_families(
    run_nodes: Callable[[Families], list[str]],
) -> None:
    output = run_nodes(DUAL)
    assert "joined at [fd00:1::1]" in output, "an agent node joins over IPv6"
    ranges = next(line for line in output if line.startswith("ranges"))
    assert "10.42.0.0/24" in ranges and "10.42.1.0/24" in ranges and "fd00:42:0:1::/64" in ranges
    answers = [line for line in output if line.endswith("answers pod two")]
    assert [line.split()[0][:5] for line in answers[:2]] == ["10.42", "fd00:"], answers
    services = [line.split()[1] for line in answers[2:]]
    assert [address[:5] for address in services] == ["10.43", "fd00:"], answers
    assert output[-1] == 'dns ["10.43.0.10","fd00:43::a"]'


def test_pods_and_services_work_without_ipv4(run_nodes: Callable[[Families], list[str]]) -> None:
    output = run_nodes(SIX)
    answers = [line for line in output if line.endswith("answers pod two")]
    assert len(answers) == 2 and answers[0].startswith("fd00:42:") and answers[1].startswith("service fd00:43::")
    assert output[-1] == 'dns ["fd00:43::a"]'
