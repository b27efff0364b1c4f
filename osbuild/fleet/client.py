"""A client of the management API, for the command line."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec

from osbuild.fleet.audit import AuditEntry
from osbuild.fleet.contexts import FleetContext
from osbuild.fleet.management.messages import (
    AccessTokenView,
    ActionView,
    ApiProblem,
    BundleView,
    DeviceView,
    EnrolmentTokenView,
    NewAccessToken,
    NewAction,
    NewEnrolmentToken,
    NewRequest,
    NewRollout,
    NewTags,
    Preview,
    RequestView,
    ResumeOrder,
    RolloutView,
    TargetToken,
)
from osbuild.fleet.names import check_part, make_path
from osbuild.fleet.server_trust import check_address, explain_failure, trust_authority
from osbuild.shared.errors import Error

TIMEOUT = httpx.Timeout(30.0, read=600.0)  # the server checks a bundle before it answers
CHUNK = 2**20
# What is listed by which command.
LISTS = {
    "device": "devices", "bundle": "bundle list", "rollout": "rollout list", "request": "requests",
    "enrolment token": "enrol-tokens", "token": "tokens",
}  # fmt: skip
NEW_LOGIN = "an administrator creates one with `edge-osbuild fleet token`, and `edge-osbuild fleet login` stores it"


class FleetClient:
    """Calls the management API. All methods raise `Error`, and `UsageError` for names that cannot exist.

    The token is only sent by https.
    """

    def __init__(self, context: FleetContext) -> None:
        check_address(context.url)
        verify = trust_authority(context.authority)
        headers = {"authorization": f"Bearer {context.token}"}
        self._client = httpx.Client(base_url=f"{context.url}/api/v1", verify=verify, headers=headers, timeout=TIMEOUT)
        self._url = context.url

    def list_devices(self) -> list[DeviceView]:
        """Return all devices by name."""
        devices: list[DeviceView] = []
        while True:
            after = {"after": devices[-1].name} if devices else {}
            page = msgspec.json.decode(self._call("GET", "/devices", params=after), type=list[DeviceView])
            if not page:
                return devices
            devices += page

    def find_names(self, begin: str) -> list[str]:
        """Return the names of the first devices that begin with `begin`, and maybe of some others."""
        after = f"{begin[:-1]}{chr(ord(begin[-1]) - 1)}\uffff" if begin else ""
        views = msgspec.json.decode(self._call("GET", "/devices", params={"after": after}), type=list[DeviceView])
        return [view.name for view in views]

    def read_device(self, name: str) -> DeviceView:
        """Return a device with its newest actions."""
        return msgspec.json.decode(self._call("GET", make_path("devices", name)), type=DeviceView)

    def list_bundles(self) -> list[BundleView]:
        """Return all bundles, the newest first."""
        return msgspec.json.decode(self._call("GET", "/bundles"), type=list[BundleView])

    def publish_bundle(self, path: Path) -> BundleView:
        """Upload a bundle, which the server checks."""
        body = self._call("PUT", make_path("bundles", path.name), content=_read_chunks(path))
        return msgspec.json.decode(body, type=BundleView)

    def delete_bundle(self, number: int) -> None:
        """Delete a bundle that nothing needs."""
        self._call("DELETE", make_path("bundles", number))

    def create_action(self, device: str, order: NewAction) -> ActionView:
        """Tell a device to install a bundle."""
        content = msgspec.json.encode(order)
        body = self._call("POST", make_path("devices", device, "actions"), content=content)
        return msgspec.json.decode(body, type=ActionView)

    def change_tags(self, device: str, order: NewTags) -> DeviceView:
        """Set and remove tags of a device."""
        content = msgspec.json.encode(order)
        body = self._call("POST", make_path("devices", device, "tags"), content=content)
        return msgspec.json.decode(body, type=DeviceView)

    def cancel_action(self, device: str, action: int) -> ActionView:
        """Cancel an action of a device."""
        body = self._call("DELETE", make_path("devices", device, "actions", action))
        return msgspec.json.decode(body, type=ActionView)

    def decommission_device(self, name: str, *, forbidden: bool = False) -> None:
        """Accept a device no more. It may have a name that is `forbidden` now."""
        if forbidden:
            self._call("DELETE", "/devices", params={"name": name})
            return
        self._call("DELETE", make_path("devices", name))

    def read_audit(self, before: int | None = None) -> list[AuditEntry]:
        """Return the newest entries of the audit log, or the newest ones before an entry."""
        parameters = {} if before is None else {"before": before}
        return msgspec.json.decode(self._call("GET", "/audit", params=parameters), type=list[AuditEntry])

    def list_access_tokens(self) -> list[AccessTokenView]:
        """Return all access tokens, without their secrets."""
        return msgspec.json.decode(self._call("GET", "/tokens"), type=list[AccessTokenView])

    def create_access_token(self, order: NewAccessToken) -> str:
        """Return a new access token."""
        answer = msgspec.json.decode(self._call("POST", "/tokens", content=msgspec.json.encode(order)))
        return str(answer["token"])

    def revoke_access_token(self, name: str) -> None:
        """Accept an access token no more."""
        self._call("DELETE", make_path("tokens", name))

    def list_rollouts(self) -> list[RolloutView]:
        """Return all rollouts, the newest first."""
        return msgspec.json.decode(self._call("GET", "/rollouts"), type=list[RolloutView])

    def read_rollout(self, name: str) -> RolloutView:
        """Return a rollout with its groups."""
        return msgspec.json.decode(self._call("GET", make_path("rollouts", name)), type=RolloutView)

    def create_rollout(self, order: NewRollout) -> RolloutView:
        """Create a rollout."""
        return msgspec.json.decode(
            self._call("POST", "/rollouts", content=msgspec.json.encode(order)), type=RolloutView
        )

    def preview_rollout(self, order: NewRollout) -> Preview:
        """Return which devices a rollout would be for."""
        body = self._call("POST", "/rollouts/preview", content=msgspec.json.encode(order))
        return msgspec.json.decode(body, type=Preview)

    def change_rollout(self, name: str, verb: str, order: ResumeOrder | None = None) -> RolloutView:
        """Start, pause, resume or abort a rollout."""
        content = b"" if order is None else msgspec.json.encode(order)
        body = self._call("POST", make_path("rollouts", name, verb), content=content)
        return msgspec.json.decode(body, type=RolloutView)

    def create_enrolment_token(self, order: NewEnrolmentToken) -> str:
        """Return a new token with which devices enrol."""
        if order.device is not None:
            check_part(order.device)
        answer = msgspec.json.decode(self._call("POST", "/enrolment-tokens", content=msgspec.json.encode(order)))
        return str(answer["token"])

    def list_enrolment_tokens(self) -> list[EnrolmentTokenView]:
        """Return all enrolment tokens, without their secrets."""
        return msgspec.json.decode(self._call("GET", "/enrolment-tokens"), type=list[EnrolmentTokenView])

    def revoke_enrolment_token(self, number: int) -> None:
        """Accept an enrolment token no more."""
        self._call("DELETE", make_path("enrolment-tokens", number))

    def create_target_token(self, device: str) -> str:
        """Return a new token of a device that does not enrol."""
        body = self._call("POST", make_path("devices", device, "target-token"))
        return msgspec.json.decode(body, type=TargetToken).token

    def create_request(self, device: str, order: NewRequest) -> RequestView:
        """Request something of a device."""
        body = self._call("POST", make_path("devices", device, "requests"), content=msgspec.json.encode(order))
        return msgspec.json.decode(body, type=RequestView)

    def read_request(self, number: int) -> RequestView:
        """Return a request."""
        return msgspec.json.decode(self._call("GET", make_path("requests", number)), type=RequestView)

    def list_requests(self, device: str | None = None) -> list[RequestView]:
        """Return the newest requests, to one device if it is given."""
        path = "/requests" if device is None else make_path("devices", device, "requests")
        return msgspec.json.decode(self._call("GET", path), type=list[RequestView])

    def download_diagnostics(self, number: int) -> bytes:
        """Return the diagnostics of a request as a compressed archive."""
        return self._call("GET", make_path("requests", number, "diagnostics"))

    def _call(self, method: str, path: str, **options: Any) -> bytes:
        try:
            answer = self._client.request(method, path, **options)
        except httpx.HTTPError as error:
            raise explain_failure(error, self._url) from error
        if answer.is_success:
            return answer.content
        if answer.status_code == 401:
            message = "the server does not accept the access token: it is wrong, has expired or was revoked"
            raise Error(message, where=self._url, hint=NEW_LOGIN)
        try:
            reason = msgspec.json.decode(answer.content, type=ApiProblem).message
        except msgspec.DecodeError:
            reason = f"the server answers {answer.status_code}"
        raise Error(reason, where=f"{self._url}: {method} {path}", hint=find_hint(reason))


def find_hint(reason: str) -> str | None:
    """Return which command lists what a server does not have, if that is the reason of a refusal."""
    kind = next((kind for kind in LISTS if reason.startswith(f"there is no {kind} ")), None)
    return None if kind is None else f"`edge-osbuild fleet {LISTS[kind]}` lists what there is"


def _read_chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk
