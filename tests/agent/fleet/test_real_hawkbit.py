"""A device that follows a real hawkBit ($EDGE_TEST_HAWKBIT) with a target token or a gateway's token."""

import ssl
from pathlib import Path

import pytest

from osbuild.agent.fleet import confirmation
from osbuild.agent.fleet.connection import FleetServer
from osbuild.agent.fleet.follower import Follower
from osbuild.agent.system import System
from osbuild.agent.update.history import UpdateEvent
from osbuild.keys.authority import PrivateKeyAccess, create_keys
from tests.agent.fleet.test_follower import RecordingInstaller
from tests.support.ddi_servers import HawkbitServer
from tests.support.hawkbit import needs_hawkbit, new_name, real_hawkbit
from tests.support.signed_bundles import make_bundle
from tests.support.update_server import BASE

ATTRIBUTES = {"version": "1.0.0", "compatible": "edge-x86_64"}


@needs_hawkbit
@pytest.mark.parametrize("kind", ["TargetToken", "GatewayToken"])
def test_a_device_follows_a_real_hawkbit(tmp_path: Path, kind: str) -> None:
    hawkbit, name, keys = real_hawkbit(), new_name("agent"), create_keys(tmp_path / "keys", "Us", PrivateKeyAccess())
    server, system = HawkbitServer(hawkbit, keys), System(tmp_path / "root")
    if kind == "TargetToken":
        token = hawkbit.create_target(name)
        hawkbit.configure(authentication_targettoken_enabled=True)
    else:
        token = "gateway-of-tests"
        hawkbit.configure(authentication_gatewaytoken_enabled=True, authentication_gatewaytoken_key=token)
    hawkbit.configure(user_confirmation_flow_enabled=True)
    fleet = FleetServer(f"{hawkbit.url}{BASE}/{name}", ssl.create_default_context(), f"{kind} {token}")
    installer = RecordingInstaller(system)
    follower = Follower(system, fleet, installer, lambda: ATTRIBUTES)

    def status(action: int) -> str:
        return str(hawkbit.read(f"/targets/{name}/actions/{action}")["detailStatus"])

    assert follower.step() > 1 and follower.failures == 0
    assert hawkbit.read(f"/targets/{name}/attributes") == ATTRIBUTES
    make_bundle(tmp_path / "one.raucb", keys, f"1.0.0-{name}", 40)
    bundle = server.publish(tmp_path / "one.raucb")

    action = server.assign(name, bundle)
    follower.step()
    (record,) = installer.ordered
    assert (record.action, follower.failures) == (str(action), 0)
    assert status(action) in ("running", "retrieved")
    server.cancel(name, action)
    follower.step()
    assert status(action) == "canceled" and follower.failures == 0

    action = server.assign(name, bundle)
    follower.step()
    installer.append(UpdateEvent.committed, installer.ordered[-1])
    follower.step()
    assert status(action) == "finished" and follower.failures == 0
    assert hawkbit.read(f"/targets/{name}")["updateStatus"] == "in_sync"

    make_bundle(tmp_path / "two.raucb", keys, f"2.0.0-{name}", 40)
    bundle = server.publish(tmp_path / "two.raucb")
    action = server.assign(name, bundle, confirm=True)
    follower.step()
    assert status(action) == "wait_for_confirmation"
    confirmation.answer_question(system, confirmed=True)
    follower.step()
    follower.step()
    assert installer.ordered[-1].action == str(action)
    installer.append(UpdateEvent.rolled_back, installer.ordered[-1], why="not healthy")
    follower.step()
    assert status(action) == "error" and follower.failures == 0
