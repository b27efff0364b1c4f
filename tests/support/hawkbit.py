"""An Eclipse hawkBit for tests, which somebody has started: $EDGE_TEST_HAWKBIT is its address.

$EDGE_TEST_HAWKBIT_LOGIN is USER:PASSWORD of its management API, by default that of a new hawkBit.
"""

import os
import uuid
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

ADDRESS, LOGIN = "EDGE_TEST_HAWKBIT", "EDGE_TEST_HAWKBIT_LOGIN"
needs_hawkbit = pytest.mark.skipif(ADDRESS not in os.environ, reason=f"{ADDRESS} names no hawkBit")


@dataclass(frozen=True)
class RealHawkbit:
    """A hawkBit that runs. `login` is USER:PASSWORD."""

    url: str
    login: str

    def people(self) -> httpx.Client:
        """Return a client of the management API."""
        user, _, password = self.login.partition(":")
        return httpx.Client(base_url=f"{self.url}/rest/v1", auth=(user, password), timeout=120)

    def read(self, path: str) -> dict[str, Any]:
        """Return a resource of the management API."""
        with self.people() as people:
            answer = people.get(path)
        assert answer.status_code == 200, answer.text
        document: dict[str, Any] = answer.json()
        return document

    def order(self, path: str, document: object, method: str = "POST") -> Any:
        """Send an order to the management API, and return the answer."""
        with self.people() as people:
            answer = people.request(method, path, json=document)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else {}

    def create_target(self, name: str) -> str:
        """Create a device, and return its target token."""
        (target,) = self.order("/targets", [{"controllerId": name, "name": name}])
        return str(target["securityToken"])

    def describe(self, target: str, token: str, attributes: dict[str, str]) -> None:
        """Send attributes as a device does."""
        self.configure(authentication_targettoken_enabled=True)
        path, headers = f"/DEFAULT/controller/v1/{target}/configData", {"authorization": f"TargetToken {token}"}
        with httpx.Client(base_url=self.url, headers=headers) as device:
            answer = device.put(path, json={"data": attributes})
        assert answer.status_code == 200, answer.text

    def configure(self, **values: object) -> None:
        """Change settings of the tenant. `_` in names stands for `.`."""
        for name, value in values.items():
            self.order(f"/system/configs/{name.replace('_', '.')}", {"value": value}, "PUT")

    def assign(self, target: str, distribution_set: int, **options: object) -> int:
        """Assign a distribution set to a device, and return the id of the action."""
        path = f"/distributionsets/{distribution_set}/assignedTargets"
        answer = self.order(path, [{"id": target, "type": "forced", **options}])
        return int(answer["assignedActions"][0]["id"])


def real_hawkbit() -> RealHawkbit:
    """Return the hawkBit that the environment names."""
    return RealHawkbit(os.environ[ADDRESS], os.environ.get(LOGIN, "admin:admin"))


def new_name(prefix: str) -> str:
    """Return a name that a hawkBit of earlier tests does not have."""
    return f"{prefix}-{uuid.uuid4().hex[:8]}"
