"""The systemd unit of the update server."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from osbuild.fleet.deployment.unit import UnitSettings, quote_argument, render_unit
from osbuild.shared.errors import Error

MOST_EXPOSURE = 3.0  # of 10 (systemd-analyze(1))


def settings(**changes: object) -> UnitSettings:
    values: dict[str, object] = {
        "program": Path("/opt/edge/bin/edge-osbuild"), "host": "0.0.0.0", "port": 8443,  # noqa: S104
        "names": ("updates.example.com",), "keyring": Path("/etc/edge-osbuild/keyring.pem"), **changes,
    }  # fmt: skip
    return UnitSettings(**values)  # type: ignore[arg-type]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="this host has no systemd-analyze")
@pytest.mark.parametrize("changes", [{}, {"port": 443}, {"user": "updates"}], ids=str)
def test_the_service_can_do_little(tmp_path: Path, changes: dict[str, object]) -> None:
    path = tmp_path / "edge-osbuild-serve.service"
    path.write_text(render_unit(settings(**changes)))
    command = ["systemd-analyze", "security", "--offline=yes", "--no-pager", str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    match = re.search(r"Overall exposure level for \S+: ([\d.]+)", result.stdout)
    assert match is not None and float(match[1]) < MOST_EXPOSURE, result.stdout


def test_the_command_has_the_names_and_never_a_folder_with_private_keys() -> None:
    unit = render_unit(settings(names=("a.example", "2001:db8::1"), host="::"))
    (command,) = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    assert command == (
        "/opt/edge/bin/edge-osbuild serve --listen [::]:8443 --log-format json --name a.example --name 2001:db8::1 "
        "--data ${STATE_DIRECTORY} --keyring ${CREDENTIALS_DIRECTORY}/keyring.pem"
    )
    assert "DynamicUser=yes" in unit and "CapabilityBoundingSet=\n" in unit
    assert "User=updates\nGroup=updates\n" in render_unit(settings(user="updates"))
    assert "CapabilityBoundingSet=CAP_NET_BIND_SERVICE\n" in render_unit(settings(port=443))


def test_arguments_are_quoted_for_systemd() -> None:
    assert quote_argument("/opt/a b%h$x") == '"/opt/a b%%h$$x"'
    with pytest.raises(Error, match="have this argument"):
        quote_argument("a\nb")


def test_a_program_in_a_home_folder_is_refused() -> None:
    with pytest.raises(Error, match="home folders"):
        render_unit(settings(program=Path("/home/ann/.venv/bin/edge-osbuild")))
