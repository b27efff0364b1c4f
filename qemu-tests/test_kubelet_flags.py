"""A profile accepts the same labels and taints as a real kubelet. Needs no machine."""

import subprocess
from pathlib import Path

import pytest

from osbuild.config import upstream_versions
from osbuild.config.load import load_profile
from osbuild.host.architecture import Architecture
from osbuild.host.cache import Cache
from osbuild.kubernetes import upstream_programs
from osbuild.shared.errors import Error

pytestmark = pytest.mark.slow  # compiles the distribution if no image was built with it

PROFILE = "name: node\nversion: 1.0.0\noverlays: [base, kubernetes]\nkubernetes:\n  role: server\n"
LABELS = [
    "a=b", "a=", "A-_.b=c", "-a=b", "a-=b", "a=-b", "a=b.", f"{'a' * 63}=b", f"{'a' * 64}=b", f"a={'b' * 63}",
    f"a={'b' * 64}", "a/b=c", "a..b/c=d", "A.b/c=d", "-a/b=c", "a/b/c=d", f"{'a' * 253}/b=c", f"{'a' * 254}/b=c",
    "kubernetes.io/os=a", "kubernetes.io/role=a", "k8s.io/a=b", "a.k8s.io/b=c", "ak8s.io/b=c",
    "node.kubernetes.io/a=b", "a.node.kubernetes.io/b=c", "kubelet.kubernetes.io/a=b", "xkubelet.kubernetes.io/a=b",
    "node-role.kubernetes.io/a=", "node-restriction.kubernetes.io/a=b", "topology.kubernetes.io/zone=a",
    "topology.kubernetes.io/rack=a", "beta.kubernetes.io/arch=a", "failure-domain.beta.kubernetes.io/region=a",
]  # fmt: skip
TAINTS = [
    "a:NoSchedule", "a=:NoSchedule", "a=b:NoExecute", "a=b:PreferNoSchedule", "a=b:NoExecut", "a=b", "a", ":NoSchedule",
    "-a:NoSchedule", "a-:NoSchedule", "a=-b:NoSchedule", "a=b=c:NoSchedule", "a:b:NoSchedule", "a/b=c:NoSchedule",
    "a/b/c:NoSchedule", "a..b/c:NoSchedule", f"{'a' * 64}:NoSchedule", f"a={'b' * 64}:NoSchedule",
]  # fmt: skip


@pytest.fixture(scope="module")
def kubelet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("bin") / "kubelet"  # the binary chooses the program by its own name
    program.symlink_to(
        upstream_programs.build_binary(upstream_versions.find_release(None), Architecture.native(), Cache())
    )
    return program


def accepted(kubelet: Path, flag: str) -> bool:
    """Whether the kubelet accepts its flags, and fails only because the configuration file is missing."""
    command = [str(kubelet), flag, "--config=/nonexistent"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode != 0
    return "failed to load kubelet config file" in result.stdout + result.stderr


def allowed(path: Path, text: str) -> bool:
    """Whether a profile with `text` is valid."""
    path.write_text(PROFILE + text + "\n")
    try:
        load_profile(path)
    except Error:
        return False
    return True


def test_a_profile_accepts_the_same_labels_as_the_kubelet(kubelet: Path, tmp_path: Path) -> None:
    by_kubelet = {text: accepted(kubelet, f"--node-labels={text}") for text in LABELS}
    pairs = {text: text.partition("=")[::2] for text in LABELS}
    by_profile = {
        text: allowed(tmp_path / "a.yaml", f"  labels: {{'{key}': '{value}'}}") for text, (key, value) in pairs.items()
    }
    assert by_profile == by_kubelet
    assert set(by_kubelet.values()) == {True, False}


def test_a_profile_accepts_the_same_taints_as_the_kubelet(kubelet: Path, tmp_path: Path) -> None:
    by_kubelet = {text: accepted(kubelet, f"--register-with-taints={text}") for text in TAINTS}
    assert {text: allowed(tmp_path / "a.yaml", f"  taints: ['{text}']") for text in TAINTS} == by_kubelet
    assert set(by_kubelet.values()) == {True, False}
