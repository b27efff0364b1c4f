"""Fleets of devices for tests of the update server's page."""

import json
import random
import time
from pathlib import Path

import httpx
from sqlalchemy import create_engine, insert

from osbuild.fleet.states import ActionKind, ActionState, Execution, Finished
from osbuild.fleet.tables import actions, devices, reports, version_counts
from osbuild.keys.key_folder import load_keys
from tests.support.signed_bundles import make_bundle
from tests.support.update_server import BASE, RunningServer, create_token

VERSIONS = ("1.0.0", "1.0.1", "1.1.0")
ATTRIBUTES = {
    "board": "x86_64", "image": "edge-server", "architecture": "x86_64", "compatible": "edge-x86_64", "slot": "a",
    "kernel": "6.12.48+deb13-amd64", "kubernetes": "v1.33.5+k3s1", "memory": "3907", "var_size": "25600",
    "var_free": "18211",
}  # fmt: skip
REASONS = (
    "rolled-back: slot b was not good after 3 tries",
    "failed health checks: 30-kubernetes: node shop-2 is not Ready: container runtime is down",
    "kernel: EXT4-fs error (device vda6): ext4_find_entry:1455: inode #2: comm containerd: reading directory lblock 0",
)
HOUR = 3_600_000  # milliseconds


def publish_versions(server: RunningServer, folder: Path, *versions: str) -> list[int]:
    """Publish bundles of these versions, and return their numbers."""
    numbers = []
    for version in versions:
        path = folder / f"{version}.raucb"
        make_bundle(path, load_keys(folder / "keys"), version)
        numbers.append(server.publish(path))
    return numbers


def report_attributes(device: httpx.Client, name: str, **data: str) -> None:
    """Report attributes of a device."""
    answer = device.put(f"{BASE}/{name}/configData", json={"data": {**ATTRIBUTES, **data}})
    assert answer.status_code == 200, answer.text


def enrol_shops(server: RunningServer, folder: Path) -> None:
    """Enrol three devices: one is healthy, one has failed to install the bundle 1, one is not healthy."""
    token = create_token(server, uses=3)
    for name, health in (("shop-1", "healthy"), ("shop-2", "healthy"), ("shop-3", "not healthy")):
        with server.enrol(name, token, folder) as device:
            report_attributes(device, name, health=health, version="1.0.0")
    order = server.order("/devices/shop-2/actions", {"bundle": 1})
    with server.client("shop-2", folder) as device:
        for status in (
            {"execution": "proceeding", "result": {"finished": "none"}, "details": ["downloading: 40 %"]},
            {"execution": "closed", "result": {"finished": "failure"}, "details": list(REASONS)},
        ):
            answer = device.post(f"{BASE}/shop-2/deploymentBase/{order['id']}/feedback", json={"status": status})
            assert answer.status_code == 200, answer.text


def insert_fleet(server: RunningServer, count: int) -> None:
    """Add devices and their history to the database of a running server.

    Most of them are healthy. Some have failed to install the bundle 1.
    """
    chance, now = random.Random(0), time.time_ns() // 1_000_000
    rows, failed = [], []
    for number in range(1, count + 1):
        version = chance.choices(VERSIONS, (20, 50, 30))[0]
        health = chance.choices(("healthy", "not healthy"), (98, 2))[0]
        seen = now - chance.randrange(300_000) if chance.random() < 0.97 else now - chance.randrange(25, 900) * HOUR
        attributes = {**ATTRIBUTES, "version": version, "health": health, "site": f"site-{number % 40:02}"}
        rows.append({
            "name": f"shop-{number:05}", "created": now - 1000 * HOUR, "last_seen": seen,
            "attributes": json.dumps(attributes), "address": "192.0.2.17",
        })  # fmt: skip
        if chance.random() < 0.01:
            failed.append(number)
    engine = create_engine(f"sqlite:///{server.data / 'fleet.db'}", connect_args={"timeout": 60})
    with engine.begin() as connection:
        connection.execute(insert(devices), rows)
        for number in failed:
            key = connection.execute(insert(actions).values(
                device=number, bundle=1, kind=ActionKind.forced, state=ActionState.failed, active=False, weight=1000,
                created=now - 3 * HOUR, ended=now - 2 * HOUR,
            )).inserted_primary_key  # fmt: skip
            assert key is not None
            connection.execute(insert(reports).values(
                action=key[0], time=now - 2 * HOUR, state=ActionState.failed, execution=Execution.closed,
                finished=Finished.failure, messages=json.dumps(REASONS),
            ))  # fmt: skip
        share = [(hour, min(1.0, hour / 500)) for hour in range(720)]
        counts = [
            {"time": now - now % HOUR - (720 - hour) * HOUR, "version": version, "devices": int(count * part)}
            for hour, done in share
            for version, part in zip(VERSIONS, (0.8 - 0.6 * done, 0.2 + 0.3 * done, 0.3 * done), strict=True)
        ]
        connection.execute(insert(version_counts), counts)
    engine.dispose()
