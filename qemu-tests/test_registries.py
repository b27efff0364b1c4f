"""Container registries of a profile, with the containerd of the built image and a real registry (docker-registry).

The registry has TLS with a private authority, and asks for a password. It runs beside containerd on loopback, in
namespaces of this host, without a machine. Images are pulled as the kubelet does, through the CRI (cri-api, api.proto).
"""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from osbuild.config.load import load_profile
from osbuild.host.cache import Cache
from osbuild.sandbox.tools_tree import unlocked_tools_tree
from osbuild.seed.render import render_seed
from tests.support.certificates import issue_certificate

PROFILE = """\
name: node
version: 1.0.0
overlays: [base, kubernetes]
kubernetes:
  role: server
  distribution: upstream
  registries:
    mirrors:
      docker.io: {endpoint: [https://registry.test:5000]}
      elsewhere.test: {endpoint: [https://registry.test:5000/v2/library]}
    configs:
      registry.test:5000:
        auth: {username: robot, password: env:REGISTRY_PASSWORD}
        tls: {ca_file: file:ca.pem}
      guest.test:5000:
        tls: {ca_file: file:ca.pem}
      lax.test:5000:
        tls: {insecure_skip_verify: true}
"""
HOSTS = ("registry.test", "guest.test", "lax.test", "stranger.test")
# bcrypt of `hunter2`
ACCOUNT = "robot:$2b$04$R88pBMOgyBXNzyzGC3Lcue3Q1embYsRTLZy8kI/NCI6ZfLkd38Gfm\n"
REGISTRY = """\
version: 0.1
storage: {filesystem: {rootdirectory: /run/registry}}
http: {addr: 127.0.0.1:5000, tls: {certificate: /run/files/server.pem, key: /run/files/server.key}}
auth: {htpasswd: {realm: test, path: /run/files/htpasswd}}
log: {level: warn}
"""
PULL = r"""
import subprocess, sys
field = lambda data: b"\x0a" + bytes([len(data)]) + data
message = field(field(sys.argv[1].encode()))
body = b"\0" + len(message).to_bytes(4, "big") + message
command = ["curl", "--silent", "--show-error", "--http2-prior-knowledge", "--dump-header", "-", "--output", "/dev/null",
           "--unix-socket", "/run/containerd/containerd.sock", "--data-binary", "@-", "--header", "te: trailers",
           "--header", "content-type: application/grpc", "http://localhost/runtime.v1.ImageService/PullImage"]
answer = subprocess.run(command, input=body, capture_output=True).stdout.decode()
values = dict(line.split(": ", 1) for line in answer.splitlines() if ": " in line)
print(sys.argv[1], values.get("grpc-status"), values.get("grpc-message", ""))
"""
SCRIPT = """
export LD_LIBRARY_PATH=/run/tools/usr/lib/x86_64-linux-gnu
export PATH=$PATH:/run/tools/usr/bin
docker-registry serve /run/files/registry.yaml > /run/registry.log 2>&1 &
until curl --silent --insecure https://registry.test:5000/v2/ > /dev/null; do sleep 0.2; done
unset LD_LIBRARY_PATH
ctr -n k8s.io images import /usr/lib/edge-osbuild/images/pause.tar > /dev/null
ctr -n k8s.io images tag localhost/edge-pause:1 registry.test:5000/library/pause:1 > /dev/null
ctr -n k8s.io images push --hosts-dir /etc/containerd/certs.d --user robot:hunter2 registry.test:5000/library/pause:1 \
    > /dev/null
ctr -n k8s.io images rm registry.test:5000/library/pause:1 > /dev/null
export LD_LIBRARY_PATH=/run/tools/usr/lib/x86_64-linux-gnu
for name in @NAMES@; do python3 /run/files/pull.py $name; done
stat -c '%a %n' /run/edge-osbuild/containerd.toml
"""


def make_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write what a seed writes to /etc, and the files of the registry."""
    authority = issue_certificate("authority")
    server = issue_certificate("registry", HOSTS, authority)
    (folder / "ca.pem").write_text(authority.pem)
    (folder / "node.yaml").write_text(PROFILE)
    monkeypatch.setenv("REGISTRY_PASSWORD", "hunter2")
    loaded = load_profile(folder / "node.yaml")
    data = yaml.safe_load(render_seed(loaded.profile, "node-1", folder=folder).files["user-data"])
    for entry in data["write_files"]:
        path = folder / entry["path"].removeprefix("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(entry["content"])
        path.chmod(int(entry["permissions"], 8))
    (folder / "etc/hosts").write_text("".join(f"127.0.0.1 {host}\n" for host in HOSTS))
    files = folder / "files"
    files.mkdir()
    (files / "server.pem").write_text(server.pem)
    (files / "server.key").write_text(server.key_pem)
    (files / "htpasswd").write_text(ACCOUNT)
    (files / "registry.yaml").write_text(REGISTRY)
    (files / "pull.py").write_text(PULL)


@pytest.fixture
def pull(
    image: Callable[[str | Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, str]]:
    """Pulls images as the kubelet does. Returns the status and the message of each (gRPC; 0 is success)."""
    tools = unlocked_tools_tree(Cache(), "registry-tools", ("docker-registry", "curl"), "container registry")
    root = image("edge-server") / "root.erofs"

    def pull(*names: str) -> dict[str, str]:
        for name in ("rw", "lower", "root", "net.d"):
            (tmp_path / name).mkdir()
        make_files(tmp_path, monkeypatch)
        (tmp_path / "tools").symlink_to(tools.root)
        (tmp_path / "script").write_text(SCRIPT.replace("@NAMES@", " ".join(names)))
        unshare = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "sh"]
        script = Path(__file__).with_name("containers.sh")
        command: list[str | Path] = [*unshare, script, tmp_path, root, tmp_path / "script"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert result.returncode == 0, result.stdout + result.stderr
        assert "failed to decode" not in result.stderr, result.stderr
        *answers, mode = result.stdout.splitlines()
        assert mode == "600 /run/edge-osbuild/containerd.toml", "it contains passwords"
        return {name: rest for name, _, rest in (line.partition(" ") for line in answers)}

    return pull


def test_images_are_pulled_through_mirrors_with_accounts_and_private_authorities(
    pull: Callable[..., dict[str, str]],
) -> None:
    right = ("registry.test:5000/library/pause:1", "docker.io/library/pause:1", "elsewhere.test/pause:1")
    guest, lax, stranger = (f"{host}.test:5000/library/pause:1" for host in ("guest", "lax", "stranger"))
    answers = pull(*right, guest, lax, stranger)
    assert [answers[name].split(" ")[0] for name in right] == ["0", "0", "0"], answers
    for name in (guest, lax):
        assert "no basic auth credentials" in answers[name], "each host has its own account"
    assert "certificate signed by unknown authority" in answers[stranger], answers
