"""Follows an update server: one poll after the other, and what each one asks for."""

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from osbuild.agent.fleet.action_record import ActionRecord, ActionStage, load_record, save_record
from osbuild.agent.fleet.attributes import digest_attributes
from osbuild.agent.fleet.confirmation import ConfirmationQuestion, ask_question, load_answer, remove_question
from osbuild.agent.fleet.connection import FleetServer, ServerAnswer, ServerUnreachable, next_pause
from osbuild.agent.fleet.messages import (
    Deployment,
    Handling,
    InvalidMessage,
    PollAnswer,
    parse_cancellation,
    parse_deployment,
    parse_poll,
    text_at,
)
from osbuild.agent.fleet.outcome import UpdateOutcome
from osbuild.agent.fleet.request_carrier import RequestCarrier
from osbuild.agent.system import System
from osbuild.shared.maintenance_window import MaintenanceWindows

BUSY_SLEEP = 15.0  # seconds between polls while an action is carried out
REQUEST_SLEEP = 5.0  # seconds between polls while a request of an operator is carried out
REFUSED = frozenset({400, 413, 415, 422})  # the server will never accept this report
OVER = frozenset({404, 410})  # the server does not wait for a report about this action any more


class Installer(Protocol):
    """Has updates installed, as another user. All methods may be repeated."""

    def order(self, record: ActionRecord) -> None:
        """Begin to install. Raises `OSError`."""
        ...

    def cancel(self, record: ActionRecord) -> bool:
        """Withdraw an order. Return False if it is carried out already."""
        ...

    def stop(self, record: ActionRecord) -> bool:
        """Let an installation end. Return False if the new slot is booted next; otherwise `cancel` succeeds soon."""
        ...

    def outcome(self, record: ActionRecord) -> UpdateOutcome | None:
        """Return how the update has ended; None if it has not."""
        ...


@dataclass
class Follower:
    """Asks `server` what to do, has it done by `installer`, and reports.

    `attributes` describe this device; `described` is the digest of those that the server has. Soft updates wait for one
    of `windows`. `clock` returns seconds since 1970. `requests` carries those of operators.
    """

    system: System
    server: FleetServer
    installer: Installer
    attributes: Callable[[], Mapping[str, str]]
    requests: RequestCarrier | None = None
    failures: int = 0
    described: str = ""
    windows: MaintenanceWindows | None = None
    clock: Callable[[], float] = time.time
    postponed: str = ""  # the last action that was reported to wait

    def step(self) -> float:
        """Poll once, and do what is asked. Return the seconds until the next poll. Raises `OSError` of this device."""
        try:
            self.report_outcome()
            poll = parse_poll(self.ask().document)
            # The server asks for them after an update; anything else may have changed them too.
            attributes = self.attributes()
            if poll.attributes is not None or digest_attributes(attributes) != self.described:
                self.send_attributes(poll.attributes or f"{self.server.base}/configData", attributes)
            if poll.request is not None and self.requests is not None:
                self.server = self.requests.carry(self.server, poll.request, updating=self.is_updating())
            if poll.cancellation is not None:
                self.cancel(poll.cancellation)
            elif poll.confirmation is not None:
                self.confirm(poll.confirmation)
            elif poll.deployment is not None:
                self.begin(poll.deployment)
            else:
                self.forget_withdrawn()
        except (ServerUnreachable, InvalidMessage) as error:
            print(f"edge-agent: the update server: {error}", flush=True)
            self.failures += 1
            return next_pause(self.failures)
        self.failures = 0
        return self.pause(poll)

    def pause(self, poll: PollAnswer) -> float:
        """Return the seconds until the next poll: few while an action is carried out."""
        sleep = min(BUSY_SLEEP, poll.sleep) if self.is_updating() else poll.sleep
        return min(REQUEST_SLEEP, sleep) if poll.request is not None and self.requests is not None else sleep

    def is_updating(self) -> bool:
        """Whether this device carries out an action, or has not reported its end."""
        record = load_record(self.system)
        return record is not None and record.stage is not ActionStage.reported

    def ask(self, address: str = "") -> ServerAnswer:
        """Return an answer with the status 200. Raises `ServerUnreachable`."""
        answer = self.server.get(address)
        if answer.status != 200:
            raise ServerUnreachable(f"it answers {answer.status}")
        return answer

    def begin(self, address: str) -> None:
        """Begin with the update at `address`, unless it is the one that is carried out or was carried out."""
        deployment = parse_deployment(self.ask(address).document)
        if deployment.download is Handling.skip:
            return
        only_download = deployment.update is Handling.skip  # only a download, or a closed maintenance window
        record = load_record(self.system)
        if record is not None and (record.action, record.url) == (deployment.action, deployment.url):
            if record.stage is ActionStage.ordered:
                self.installer.order(record)  # a power cut may have ended it
                return
            if not record.only_download:
                self.repeat_report(record)
                return
            if only_download:
                return
        elif record is not None and record.stage is ActionStage.ordered and not self.installer.cancel(record):
            return  # another update is in progress: its verdict comes first
        if self.must_wait(deployment):
            return
        if not self.server.owns(deployment.url):
            self.report(deployment.action, "closed", "failure", "the bundle is on another server")
            return
        record = ActionRecord(
            deployment.action, str(uuid.uuid4()), ActionStage.ordered, deployment.url, deployment.version,
            only_download,
        )  # fmt: skip
        save_record(self.system, record)
        execution = "download" if only_download else "proceeding"
        self.report(record.action, execution, "none", describe(deployment, only_download=only_download))
        self.installer.order(record)

    def must_wait(self, deployment: Deployment) -> bool:
        """Whether an update has to wait for a maintenance window of this device. The server learns of that once."""
        own = self.windows if Handling.attempt in (deployment.download, deployment.update) else None
        if own is None or own.is_open(self.clock()):
            return False
        if self.postponed != deployment.action:
            opening = time.strftime("%Y-%m-%d %H:%M %z", time.localtime(own.next_opening(self.clock())))
            self.report(deployment.action, "scheduled", "none", f"waits for the device's own window: {opening}")
            self.postponed = deployment.action
        return True

    def confirm(self, address: str) -> None:
        """Ask people about the update that waits at `address`, and report their answer."""
        document = self.ask(address).document
        if "confirmation" not in document:  # an overview, which links to the action; hawkBit's polls name the action
            document = self.ask(text_at(document, "_links", "confirmationBase", "href")).document
        deployment = parse_deployment({"id": document.get("id"), "deployment": document.get("confirmation")})
        confirmed = load_answer(self.system, deployment.action)
        if confirmed is None:
            ask_question(self.system, ConfirmationQuestion(deployment.action, deployment.name, deployment.version))
            return
        answer = {"confirmation": "confirmed" if confirmed else "denied", "details": ["`edge-agent update confirm`"]}
        self.server.send("POST", f"{self.server.base}/confirmationBase/{deployment.action}/feedback", answer)
        remove_question(self.system)

    def cancel(self, address: str) -> None:
        """Cancel the action of the order at `address`. It goes on if the new slot is booted next already."""
        action = parse_cancellation(self.ask(address).document)
        record = load_record(self.system)
        ended = record is None or record.action != action or self.has_ended(record)
        if record is not None and not ended and self.installer.stop(record):
            return  # the answer follows when the installation has ended
        feedback = f"{self.server.base}/cancelAction/{action}/feedback"
        text = "cancelled" if ended else "the new version is booted next already"
        answer = self.server.send("POST", feedback, status("closed" if ended else "rejected", "none", text))
        accepted = answer.status == 200 or answer.status in OVER
        if ended and accepted and record is not None and record.action == action:
            save_record(self.system, replace(record, stage=ActionStage.reported))

    def has_ended(self, record: ActionRecord) -> bool:
        """Whether a cancelled action has ended: its order is withdrawn, or the slot is only written."""
        written = record.only_download and self.installer.outcome(record) is not None
        return written or self.installer.cancel(record)

    def report_outcome(self) -> None:
        """Report how the action has ended, if it has. It is repeated until the server has it."""
        record = load_record(self.system)
        if record is None or record.stage is ActionStage.reported:
            return
        outcome = self.installer.outcome(record)
        if outcome is None:
            return
        if record.only_download and outcome.success:
            self.report(record.action, "downloaded", "none", *outcome.details)
        else:
            finished = "success" if outcome.success else "failure"
            self.report(record.action, "closed", finished, *outcome.details)
        save_record(self.system, replace(record, stage=ActionStage.reported))

    def forget_withdrawn(self) -> None:
        """Forget an order that the server does not know any more: the answer to a cancellation was lost."""
        record = load_record(self.system)
        if record is not None and record.stage is ActionStage.ordered and self.installer.cancel(record):
            save_record(self.system, replace(record, stage=ActionStage.reported))

    def repeat_report(self, record: ActionRecord) -> None:
        """Report the outcome again to a server that orders what was reported: it was restored from a backup."""
        outcome = self.installer.outcome(record)
        if outcome is not None:
            self.report(record.action, "closed", "success" if outcome.success else "failure", *outcome.details)

    def report(self, action: str, execution: str, finished: str, *details: str) -> None:
        """Send a report about an action. It is enough if the server does not want it any more."""
        address = f"{self.server.base}/deploymentBase/{action}/feedback"
        answer = self.server.send("POST", address, status(execution, finished, *details))
        if answer.status in REFUSED:
            print(f"edge-agent: the update server refuses a report: {answer.status}", flush=True)
        elif answer.status != 200 and answer.status not in OVER:
            raise ServerUnreachable(f"it answers {answer.status} to a report")

    def send_attributes(self, address: str, attributes: Mapping[str, str]) -> None:
        """Send what this device says about itself."""
        answer = self.server.send("PUT", address, {"mode": "replace", "data": dict(attributes)})
        if answer.status in REFUSED:  # hawkBit refuses some characters; that must not end updates
            print(f"edge-agent: the update server refuses the attributes: {answer.status}", flush=True)
        elif answer.status != 200:
            raise ServerUnreachable(f"it answers {answer.status} to the attributes")
        if attributes.get("health") == "healthy" and {"image", "version"} <= attributes.keys():
            # Bundles of several boards have the same name, and hawkBit has no name but `compatible`.
            self.report_installed(attributes.get("compatible", attributes["image"]), attributes["version"])
        self.described = digest_attributes(attributes)

    def report_installed(self, name: str, version: str) -> None:
        """Tell the server what is installed, which may have happened without the server. It may not know the bundle."""
        answer = self.server.send("PUT", f"{self.server.base}/installedBase", {"name": name, "version": version})
        if answer.status >= 500:
            raise ServerUnreachable(f"it answers {answer.status} to the installed version")


def status(execution: str, finished: str, *details: str) -> dict[str, Any]:
    """Return the document of a report."""
    return {"status": {"execution": execution, "result": {"finished": finished}, "details": list(details)}}


def describe(deployment: Deployment, *, only_download: bool) -> str:
    """Return what is done as one line."""
    if not only_download:
        return f"installing {deployment.name} {deployment.version}"
    reason = "until a maintenance window opens" if deployment.window_open is False else "as ordered"
    return f"writing {deployment.name} {deployment.version} to the other slot, without booting it {reason}"
