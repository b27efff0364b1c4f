"""The attributes that a device reports: built-in ones, values of its profile, and when its certificates expire."""

import datetime
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from osbuild.agent.certificate_end import KUBERNETES_FILE, certificate_end
from osbuild.agent.fleet.attributes import digest_attributes, read_attributes
from osbuild.agent.fleet.identity import identity_files
from osbuild.agent.fleet.settings import FleetSettings
from osbuild.agent.kubernetes.first_expiry import store_first_expiry
from osbuild.agent.kubernetes.settings import IMAGE_FILE
from osbuild.agent.system import System
from osbuild.shared.device_attributes import BUILT_IN
from osbuild.shared.image_description import DESCRIPTION_FILE

SETTINGS = FleetSettings("node", "https://updates.example.com", "PEM", attributes={"site": "Oslo"}, facts=("cpus",))


def make_certificate(path: Path, days: int) -> str:
    """Make a certificate, and return when it expires, as attributes say it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
               "-subj", "/CN=x", "-days", str(days), "-keyout", f"{path}.key", "-out", str(path)]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    text = subprocess.run(
        ["openssl", "x509", "-in", str(path), "-noout", "-enddate"], check=True, capture_output=True, text=True
    ).stdout
    end = datetime.datetime.strptime(text.strip(), "notAfter=%b %d %H:%M:%S %Y %Z")
    return f"{end.isoformat()}Z"


def put(system: System, name: str, text: str) -> None:
    system.path(name).parent.mkdir(parents=True, exist_ok=True)
    system.path(name).write_text(text)


def test_values_of_the_profile_stand_beside_built_in_attributes_and_never_replace_them(tmp_path: Path) -> None:
    system = System(tmp_path)
    put(system, DESCRIPTION_FILE, '{"name": "edge-server", "version": "1.0.0"}')
    own = FleetSettings("node", SETTINGS.server, "PEM", attributes={"site": "Oslo", "version": "9.9.9", "cpus": "no"})
    attributes = read_attributes(system, own)
    assert (attributes["site"], attributes["version"], attributes["cpus"]) == ("Oslo", "1.0.0", "no")
    attributes = read_attributes(system, SETTINGS)
    assert attributes.keys() - BUILT_IN == {"site", "cpus"} and int(attributes["cpus"]) > 0
    assert "certificate_expires" not in attributes and "kubernetes_certificate_expires" not in attributes


def test_the_end_of_the_own_certificate_is_reported(tmp_path: Path) -> None:
    system, path = System(tmp_path), identity_files(System(tmp_path)).certificate
    end = make_certificate(path, 90)
    assert read_attributes(system, SETTINGS)["certificate_expires"] == end
    with_token = FleetSettings("node", SETTINGS.server, "PEM", target_token="0f0f")
    assert "certificate_expires" not in read_attributes(system, with_token), "it is not used"
    path.write_text("torn")
    assert certificate_end(path) is None


def upstream(root: Path) -> list[Path]:
    return [root / "var/lib/kubernetes/pki/ca.crt", root / "var/lib/kubernetes/pki/apiserver.crt"]


def upstream_agent(root: Path) -> list[Path]:
    return [root / "var/lib/kubernetes/pki/ca.crt", root / "var/lib/kubelet/pki/kubelet-client-current.pem"]


def k3s(root: Path) -> list[Path]:
    put(System(root), "/usr/bin/k3s", "")
    data = root / "var/lib/kubernetes"
    return [data / "server/tls/client-ca.crt", data / "agent/client-kubelet.crt"]


@pytest.mark.parametrize("distribution", [upstream, upstream_agent, k3s])
def test_the_first_end_of_the_certificates_of_the_cluster_is_reported(
    tmp_path: Path, distribution: Callable[[Path], list[Path]]
) -> None:
    system = System(tmp_path)
    put(system, f"/{IMAGE_FILE}", '{"role": "server"}')
    store_first_expiry(tmp_path)
    assert not system.path(KUBERNETES_FILE).exists(), "there is no certificate yet"
    authority, leaf = distribution(tmp_path)
    make_certificate(authority, 3650)
    end = make_certificate(leaf, 200)
    store_first_expiry(tmp_path)
    assert system.path(KUBERNETES_FILE).stat().st_mode & 0o777 == 0o644
    assert read_attributes(system, SETTINGS)["kubernetes_certificate_expires"] == end


def test_settings_that_are_damaged_do_not_stop_the_agent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(System(tmp_path), f"/{IMAGE_FILE}", '{"role": 7}')
    store_first_expiry(tmp_path)
    assert "the end of the cluster's certificates is not known" in capsys.readouterr().out


def test_free_space_alone_is_not_a_change() -> None:
    before = {"version": "1", "var_free": "10"}
    assert digest_attributes(before) == digest_attributes({"var_free": "9", "version": "1"})
    for changed in ({"version": "2", "var_free": "10"}, {**before, "site": "Oslo"}, {"var_free": "10"}):
        assert digest_attributes(changed) != digest_attributes(before)
