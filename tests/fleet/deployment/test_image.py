"""The container image of the update server: unpacked, it runs as a user without rights."""

import json
import os
import re
import shutil
import ssl
import subprocess
import tarfile
from pathlib import Path

import httpx
import pytest

from osbuild.fleet.deployment.image import make_server_image
from osbuild.host.cache import Cache
from osbuild.keys.authority import PrivateKeyAccess, create_keys
from tests.support.examples import VARIABLE

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="a tools tree needs root"),
    pytest.mark.skipif(os.environ.get(VARIABLE) != "all", reason="makes a Debian root; `make test-all` runs it"),
]

# What a container engine does: a read-only root, a volume, devices, and a user without rights.
CONTAINER = """
root=$1 data=$2 user=$3; shift 3
mount --make-rprivate /
mount --bind "$root" "$root"
mount -o remount,ro,bind "$root"
mount --bind "$data" "$root/data"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
exec chroot --userspec="$user" "$root" "$@"
"""


def test_the_image_serves_as_an_unprivileged_user_and_is_reproducible(tmp_path: Path) -> None:
    keyring = create_keys(tmp_path / "keys", "Example", PrivateKeyAccess()).keyring()
    archives = [tmp_path / name for name in ("one.tar", "two.tar")]
    for path in archives:
        make_server_image(path, keyring, Cache())
    first, second = (path.read_bytes() for path in archives)
    assert first == second
    blobs, root = tmp_path / "blobs", tmp_path / "root"
    with tarfile.open(archives[0]) as archive:
        archive.extractall(blobs, filter="data")
    (manifest,) = json.loads((blobs / "manifest.json").read_text())
    settings = json.loads((blobs / manifest["Config"]).read_text())["config"]
    user = settings["User"]
    assert user.partition(":")[0] not in ("", "0") and settings["Volumes"] == {"/data": {}}
    with tarfile.open(blobs / manifest["Layers"][0]) as layer:
        layer.extractall(root, filter=keep_owners)
    assert not [path for path in root.rglob("*") if path.is_file() and path.stat().st_mode & 0o6000]
    data = tmp_path / "volume"
    data.mkdir(0o700)
    os.chown(data, int(user.partition(":")[0]), int(user.partition(":")[2]))
    command = [*settings["Entrypoint"], "--listen", "127.0.0.1:0"]
    environ = dict(variable.partition("=")[::2] for variable in settings["Env"])
    process = subprocess.Popen(
        [shutil.which("unshare") or "", "--mount", "/bin/sh", "-euc", CONTAINER, "sh", root, data, user, *command],
        env={**environ, "PATH": os.environ["PATH"]}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None and process.stderr is not None
        while not (match := re.search(r"serving at \S+:(\d+),", line := process.stderr.readline())):
            assert line, process.communicate()
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert re.search(r"^Uid:\t65532\t65532\t65532\t65532$", status, re.MULTILINE)
        context = ssl.create_default_context(cafile=data / "tls/server-ca.crt")
        with httpx.Client(verify=context, base_url=f"https://127.0.0.1:{match[1]}", timeout=60) as client:
            assert client.get("/healthz").text == "ok\n"
            assert client.get("/readyz").text == "ok\n"
    finally:
        process.terminate()
        assert process.wait(60) == 0, process.communicate()
    assert (data / "fleet.db").stat().st_uid == 65532


def keep_owners(member: tarfile.TarInfo, _folder: str) -> tarfile.TarInfo:
    """Unpack as a container engine does: links and owners as they are."""
    return member
