"""Servers that speak DDI, prepared for the same requests: ours, and a real hawkBit."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import httpx

from osbuild.fleet.hawkbit.management import HawkbitLogin, HawkbitManagement
from osbuild.fleet.hawkbit.publishing import publish_to_hawkbit, read_bundle
from osbuild.keys.key_folder import KeyFolder
from tests.support.hawkbit import RealHawkbit
from tests.support.update_server import BASE, RunningServer


class DdiServer(Protocol):
    """What a test needs of a server beside DDI. Devices have target tokens."""

    def create_device(self, name: str) -> httpx.Client:
        """Return a client for the resources of a new device."""
        ...

    def publish(self, bundle: Path) -> int:
        """Offer a bundle. Return the number with which it is assigned."""
        ...

    def assign(self, device: str, bundle: int, kind: str = "forced", *, confirm: bool = False) -> int:
        """Tell a device to install a bundle. Return the number of the action."""
        ...

    def cancel(self, device: str, action: int) -> None:
        """Cancel an action."""
        ...


@dataclass(frozen=True)
class OurServer:
    """`edge-osbuild serve`."""

    server: RunningServer

    def create_device(self, name: str) -> httpx.Client:
        token = self.server.order(f"/devices/{name}/target-token", {})["token"]
        headers = {"authorization": f"TargetToken {token}"}
        base = f"{self.server.url}{BASE}/{name}"
        return httpx.Client(verify=self.server.context(), base_url=base, headers=headers, timeout=60)

    def publish(self, bundle: Path) -> int:
        return self.server.publish(bundle)

    def assign(self, device: str, bundle: int, kind: str = "forced", *, confirm: bool = False) -> int:
        order = {"bundle": bundle, "kind": kind, "confirm": confirm}
        return int(self.server.order(f"/devices/{device}/actions", order)["id"])

    def cancel(self, device: str, action: int) -> None:
        with self.server.people() as people:
            assert people.delete(f"/devices/{device}/actions/{action}").status_code == 200


@dataclass(frozen=True)
class HawkbitServer:
    """A real hawkBit, to which bundles of `keys` are published."""

    hawkbit: RealHawkbit
    keys: KeyFolder

    def create_device(self, name: str) -> httpx.Client:
        token = self.hawkbit.create_target(name)
        self.hawkbit.configure(authentication_targettoken_enabled=True, user_confirmation_flow_enabled=True)
        headers = {"authorization": f"TargetToken {token}"}
        return httpx.Client(base_url=f"{self.hawkbit.url}{BASE}/{name}", headers=headers, timeout=60)

    def publish(self, bundle: Path) -> int:
        management = HawkbitManagement(HawkbitLogin.parse(self.hawkbit.url, self.hawkbit.login, None))
        return publish_to_hawkbit(management, read_bundle(bundle, self.keys.keyring())).distribution_set

    def assign(self, device: str, bundle: int, kind: str = "forced", *, confirm: bool = False) -> int:
        return self.hawkbit.assign(device, bundle, type=kind.replace("-", ""), confirmationRequired=confirm)

    def cancel(self, device: str, action: int) -> None:
        with self.hawkbit.people() as people:
            assert people.delete(f"/targets/{device}/actions/{action}").status_code == 204
