"""`publish --hawkbit`: options, and a real hawkBit if there is one."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from osbuild.keys.authority import PrivateKeyAccess, create_keys
from osbuild.keys.key_folder import KeyFolder
from tests.support.hawkbit import needs_hawkbit, new_name, real_hawkbit
from tests.support.signed_bundles import make_bundle

PASSWORD = "pa:ss-word"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> KeyFolder:
    return create_keys(tmp_path_factory.mktemp("publish") / "keys", "Example", PrivateKeyAccess())


def publish(keys: KeyFolder, *arguments: str | Path, status: int = 0, login: str = f"admin:{PASSWORD}") -> str:
    """Run `edge-osbuild publish`, and return its output, or its errors."""
    environ = {**os.environ, "EDGE_OSBUILD_KEYS": str(keys.folder), "HAWKBIT": login}
    command = [sys.executable, "-m", "osbuild", "publish", *map(str, arguments)]
    result = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert result.returncode == status, result.stdout + result.stderr
    assert login.partition(":")[2] not in result.stderr
    return result.stdout if status == 0 else result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--login", "env:HAWKBIT"), "--login needs --hawkbit"),
        (("--rollout", "winter"), "--rollout needs --hawkbit"),
        (("--hawkbit", "https://hawkbit.example.com"), "--hawkbit needs --login"),
        (("--hawkbit", "https://hawkbit.example.com", "--login", "env:HAWKBIT", "--now"), "--now needs --rollout"),
        (("--hawkbit", "http://hawkbit.example.com", "--login", "env:HAWKBIT"), "as plain text"),
    ],
)
def test_options_that_would_be_ignored_are_usage_errors(
    keys: KeyFolder, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    assert message in publish(keys, tmp_path / "one.raucb", *options, status=2)


def test_only_bundles_that_devices_would_accept_are_uploaded(keys: KeyFolder, tmp_path: Path) -> None:
    others = create_keys(tmp_path / "others", "Others", PrivateKeyAccess())
    bundle = tmp_path / "one.raucb"
    with socket.create_server(("127.0.0.1", 0)) as server:
        target = ("--hawkbit", f"http://127.0.0.1:{server.getsockname()[1]}", "--login", "env:HAWKBIT")
        assert "the bundle can't be read" in publish(keys, bundle, *target, status=1)
        make_bundle(bundle, others, "1.0.0", 10)
        assert "no certificate of the server's keyring" in publish(keys, bundle, *target, status=1)
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()
    make_bundle(bundle, keys, "1.0.0", 10)
    assert "hawkBit does not answer" in publish(keys, bundle, *target, status=1)


@needs_hawkbit
def test_a_bundle_a_distribution_set_and_a_rollout_in_a_real_hawkbit(keys: KeyFolder, tmp_path: Path) -> None:
    hawkbit, prefix, bundle = real_hawkbit(), new_name("shop"), tmp_path / "one.raucb"
    version = f"1.0.0-{prefix}"
    content = make_bundle(bundle, keys, version, 400)
    target = ("--hawkbit", hawkbit.url, "--login", "env:HAWKBIT")

    def run(*arguments: str | Path, status: int = 0, login: str = hawkbit.login) -> str:
        return publish(keys, bundle, *target, *arguments, status=status, login=login)

    assert "hawkBit answers 401" in run(status=1, login="admin:wrong-password")
    first = json.loads(run("--json"))
    assert first["is_new"] and first["rollout"] is None
    (artifact,) = hawkbit.people().get(f"/softwaremodules/{first['module']}/artifacts").json()
    assert (artifact["hashes"]["sha256"], artifact["size"]) == (first["sha256"], len(content))
    distribution_set = hawkbit.read(f"/distributionsets/{first['distribution_set']}")
    assert [module["id"] for module in distribution_set["modules"]] == [first["module"]]
    assert distribution_set["complete"] and distribution_set["type"] == "os"

    names = [f"{prefix}-{number:02}" for number in range(20)]
    tokens = [hawkbit.create_target(name) for name in names]
    for name, token in list(zip(names, tokens, strict=True))[1:]:
        hawkbit.describe(name, token, {"compatible": "edge-x86_64"})
    order = ("--rollout", prefix, "--select", f"name={prefix}-*", "--groups", "10,40,50", "--success", "90")
    again = json.loads(run(*order, "--now", "--json"))
    assert (again["is_new"], again["module"], again["distribution_set"]) == (
        False, first["module"], first["distribution_set"],
    )  # fmt: skip
    assert again["rollout"]["devices"] == 19, "the first device does not say that the bundle is for it"
    (rollout,) = hawkbit.read(f"/rollouts?q=name=={prefix}")["content"]
    groups = hawkbit.read(f"/rollouts/{rollout['id']}/deploygroups")["content"]
    assert [(group["name"], group["totalTargets"]) for group in groups] == [
        ("group 1", 2),
        ("group 2", 8),
        ("group 3", 9),
    ]
    assert "there is a rollout named" in run(*order, status=1)
    make_bundle(bundle, keys, version, 400)
    assert "exists already with other contents" in run(status=1)
