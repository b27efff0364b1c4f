"""An update server for tests: `edge-osbuild serve` as a process, and clients of it."""

import html
import os
import re
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from osbuild.fleet.states import MemberStanding
from osbuild.keys.authority import PrivateKeyAccess, create_keys
from osbuild.keys.key_folder import load_keys
from osbuild.keys.private_key import generate_key, key_to_pem, load_key
from tests.support.signed_bundles import make_bundle

BASE = "/DEFAULT/controller/v1"
PATIENT = 60.0  # seconds for what a server does at once on an idle machine
_STANDING = """CASE WHEN a.state IN ('finished', 'downloaded') THEN 'succeeded'
    WHEN a.state IN ('failed', 'cancelled') THEN a.state ELSE 'pending' END"""
MISCOUNTED = "SELECT g.id FROM rollout_groups g WHERE " + " OR ".join(
    f"g.{standing} != (SELECT count(*) FROM rollout_members m LEFT JOIN actions a ON a.id = m.action "
    f"WHERE m.\"group\" = g.id AND {_STANDING} = '{standing}')"
    for standing in MemberStanding
)
"""selects groups whose numbers are not those of their devices, if none is overdue or forgiven"""
ADDRESS = "EDGE_TEST_SERVER_DATABASE"
"""the variable with the address of a server's database, which has a password"""


class Databases:
    """The databases of servers that tests start: files of SQLite, or one of PostgreSQL for each data folder."""

    def __init__(self) -> None:
        self.create: Callable[[], str] | None = None
        self._addresses: dict[Path, str] = {}

    def address_of(self, data: Path) -> str | None:
        """Return the address of the database of a data folder; None for SQLite."""
        if self.create is None:
            return None
        if data not in self._addresses:
            self._addresses[data] = self.create()
        return self._addresses[data]


databases = Databases()


@dataclass
class RunningServer:
    """A server that runs. `token` is that of its administrator."""

    url: str
    data: Path
    token: str
    process: subprocess.Popen[str]

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.data / "tls/server-ca.crt")

    def people(self) -> httpx.Client:
        headers = {"authorization": f"Bearer {self.token}"}
        return httpx.Client(verify=self.context(), base_url=f"{self.url}/api/v1", headers=headers, timeout=PATIENT)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def order_update(self, device: str, bundle: Path, **options: object) -> int:
        """Upload a bundle, tell a device to install it, and return the number of the action."""
        number = self.publish(bundle)
        with self.people() as people:
            return int(people.post(f"/devices/{device}/actions", json={"bundle": number, **options}).json()["id"])

    def publish(self, bundle: Path) -> int:
        """Upload a bundle, and return its number."""
        with self.people() as people:
            answer = people.put(f"/bundles/{bundle.name}", content=bundle.read_bytes(), timeout=120)
        assert answer.status_code == 200, answer.text
        return int(answer.json()["id"])

    def create_rollout(self, name: str, bundle: int, *percents: int, **options: object) -> None:
        """Start a rollout for all devices, in groups of these percentages."""
        groups = [{"percent": percent} for percent in percents]
        self.order("/rollouts", {"name": name, "bundle": bundle, "groups": groups, "now": True, **options})

    def resume_rollout(self, name: str, bundle: int) -> None:
        """Go on with a paused rollout, with another bundle."""
        self.order(f"/rollouts/{name}/resume", {"bundle": bundle})

    def order(self, address: str, document: dict[str, Any]) -> dict[str, Any]:
        """Send an order of the administrator, which must be accepted, and return the answer."""
        with self.people() as people:
            answer = people.post(address, json=document)
        assert answer.status_code == 200, answer.text
        accepted: dict[str, Any] = answer.json()
        return accepted

    def rollout(self, name: str) -> dict[str, Any]:
        """Return a rollout as people see it."""
        with self.people() as people:
            document: dict[str, Any] = people.get(f"/rollouts/{name}").json()
        return document

    def page_text(self, path: str) -> str:
        """Return a page as somebody sees it who has signed in, without tags."""
        with self.anybody() as client:
            client.follow_redirects = True
            client.headers["origin"] = self.url
            client.post("/signin", data={"token": self.token})
            answer = client.get(path)
        assert answer.status_code == 200, answer.text
        return html.unescape(re.sub(r"<[^>]*>", "", answer.text))

    def actions(self, device: str) -> list[tuple[int, str]]:
        """Return number and state of a device's actions, the newest first."""
        return [(action["id"], action["state"]) for action in self._device(device).get("actions", [])]

    def messages(self, device: str) -> list[str]:
        """Return the messages about the newest action of a device, the newest first."""
        return list(self._device(device)["actions"][0]["messages"])

    def attributes(self, device: str) -> dict[str, str]:
        """Return what a device says about itself; nothing if it is unknown."""
        return dict(self._device(device).get("attributes", {}))

    def is_decommissioned(self, device: str) -> bool:
        """Whether a device is known, and not accepted any more."""
        return self._device(device).get("decommissioned") is not None

    def _device(self, name: str) -> dict[str, Any]:
        with self.people() as people:
            answer = people.get(f"/devices/{name}")
        document: dict[str, Any] = answer.json() if answer.status_code == 200 else {}
        return document

    def anybody(self) -> httpx.Client:
        return httpx.Client(verify=self.context(), base_url=self.url, timeout=PATIENT)

    def enrol(self, name: str, token: str, folder: Path) -> httpx.Client:
        """Return a client with the certificate that the server gives to the device `name`. Its key may be there."""
        body = {"device": name, "token": token, "request": make_request(name, folder)}
        with self.anybody() as client:
            answer = client.post("/enrol/v1", json=body)
        return self._accept(name, folder, answer)

    def renew(self, name: str, before: Path, folder: Path) -> httpx.Client:
        """Return a client with a new certificate, for the one in the folder `before`."""
        with self.client(name, before) as client:
            answer = client.post("/enrol/v1/renew", json={"device": name, "request": make_request(name, folder)})
        return self._accept(name, folder, answer)

    def client(self, name: str, folder: Path) -> httpx.Client:
        """Return a client with the certificate of a device."""
        context = self.context()
        context.load_cert_chain(folder / f"{name}.crt", folder / f"{name}.key")
        return httpx.Client(verify=context, base_url=self.url, timeout=PATIENT)

    def _accept(self, name: str, folder: Path, answer: httpx.Response) -> httpx.Client:
        assert answer.status_code == 200, answer.text
        (folder / f"{name}.crt").write_text(answer.text)
        return self.client(name, folder)


def make_request(name: str, folder: Path) -> str:
    """Return a certificate request of a device, whose key is made if it is not in the folder."""
    path = folder / f"{name}.key"
    if not path.exists():
        path.touch(0o600)
        path.write_bytes(key_to_pem(generate_key()))
    key = load_key(path, None, option="", hint="")
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(Encoding.PEM).decode()


def start_server(data: Path, *options: str, keys: Path | None = None) -> RunningServer:
    """Start a server that accepts bundles of `keys`, by default those in the folder `keys` beside `data`."""
    command = [sys.executable, "-m", "osbuild", "serve", "--data", str(data), "--listen", "127.0.0.1:0", *options]
    known = (data / "tls").exists()  # it was started before
    environ = {**os.environ, "EDGE_OSBUILD_KEYS": str(keys or data.parent / "keys")}
    if "--database" not in options and (address := databases.address_of(data)):
        environ[ADDRESS] = address
        command += ["--database", f"env:{ADDRESS}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ)
    assert process.stdout is not None and process.stderr is not None
    token = "" if known else process.stdout.readline().split()[-1]
    while not (match := re.search(r"serving at \S+:(\d+),", line := process.stderr.readline())):
        assert line, process.communicate()
    return RunningServer(f"https://127.0.0.1:{match[1]}", data, token, process)


@contextmanager
def running_server(folder: Path, *options: str) -> Iterator[RunningServer]:
    """Run a server with its data in `folder`/fleet and new keys in `folder`/keys. It must end in order."""
    create_keys(folder / "keys", "Example", PrivateKeyAccess())
    server = start_server(folder / "fleet", *options)
    try:
        yield server
    finally:
        server.process.terminate()
        assert server.process.wait(30) == 0, server.process.communicate()


def enrol_with_update(server: RunningServer, device: str, folder: Path) -> None:
    """Enrol a device, and tell it to install the bundle `one.raucb` in `folder`, which has its certificate too."""
    make_bundle(folder / "one.raucb", load_keys(folder / "keys"), "1.1.0")
    server.enrol(device, create_token(server), folder).close()
    server.order_update(device, folder / "one.raucb")


def create_token(server: RunningServer, **order: object) -> str:
    with server.people() as people:
        return str(people.post("/enrolment-tokens", json=order).json()["token"])
