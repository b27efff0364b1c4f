"""What root does about an operator's request: verifies it, records it, carries it out, and stores the result."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from osbuild.agent.errors import Problem
from osbuild.agent.fleet import request_files
from osbuild.agent.fleet.request_files import StoredResult
from osbuild.agent.fleet.request_record import (
    RequestRecord,
    RequestStage,
    SeenRequest,
    load_requests,
    save_requests,
)
from osbuild.agent.fleet.request_signature import RequestRejected, verify_request
from osbuild.agent.fleet.settings import FleetSettings
from osbuild.agent.system import System
from osbuild.agent.update.records import read_boot_id
from osbuild.shared.operator_requests import LARGEST_ARCHIVE, LONGEST_VALIDITY, OperatorRequest, RequestKind

SKEW = 5 * 60 * 1000  # milliseconds by which the clock of a device may be late
INTERRUPTED = "interrupted by a power cut, a reboot or a kill: request it again"
UNFINISHED = frozenset({RequestStage.begun, RequestStage.rebooting})
ANYTIME = frozenset({RequestKind.diagnostics, RequestKind.wipe})  # also while an update is installed
ANNOUNCEMENT = 60.0  # seconds for the report that a device wipes itself


@dataclass(frozen=True)
class RequestActions:
    """What root can do on this device. All of them raise `Problem` and `OSError`.

    `roll_back` switches to the other slot and returns what happens next; None if a reboot must follow. `wipe` calls its
    argument, which tells the server, then destroys the keys, and lets the next boot destroy the data. `collect` returns
    the diagnostics as a compressed archive.
    """

    collect: Callable[[], bytes]
    reboot: Callable[[], None]
    roll_back: Callable[[], str | None]
    wipe: Callable[[Callable[[], None]], None]
    is_busy: Callable[[], bool]
    clock: Callable[[], int]


@dataclass(frozen=True)
class RequestHandler:
    """Handles requests of the update server in `settings`, which also say what the profile allows.

    `announcement` is how many seconds a wipe waits for the report that it begins.
    """

    system: System
    settings: FleetSettings
    actions: RequestActions
    announcement: float = ANNOUNCEMENT

    def handle_offered(self) -> None:
        """Handle the request that the unprivileged part has offered, if there is one. Raises `OSError`."""
        data = request_files.take_request(self.system)
        if data is None:
            return
        digest = request_files.digest_request(data)
        record = self.load_record()
        try:
            request = verify_request(self.system, data, self.settings.authority)
            self.check_request(request, record)
        except RequestRejected as rejection:
            self.store_rejection(digest, str(rejection))
            return
        seen = record.find_request(request.id)
        if seen is not None:
            self.repeat_result(record, seen, digest)
        else:
            self.begin_request(record, request, digest)

    def load_record(self) -> RequestRecord:
        """Return the record, which is created if there is none. Raises `OSError`."""
        record = load_requests(self.system)
        if record is None:
            record = RequestRecord(self.actions.clock())
            save_requests(self.system, record)
        return record

    def check_request(self, request: OperatorRequest, record: RequestRecord) -> None:
        """Raise `RequestRejected` unless a request is for this device, and known here or still valid."""
        if request.device != self.settings.node:
            raise RequestRejected(f"it is for another device: {request.device[:64]!r}")
        if not 0 < request.expires - request.not_before <= LONGEST_VALIDITY:
            raise RequestRejected("it is valid for longer than a day")
        if record.find_request(request.id) is not None:
            return
        if request.expires <= record.present_time(self.actions.clock()):
            raise RequestRejected("it has expired")
        if request.not_before < record.since:
            raise RequestRejected("it is older than this device's record of requests: request it again")

    def find_objection(self, request: OperatorRequest) -> str | None:
        """Return why a valid request is not carried out now, nor later; None if it is."""
        if request.kind not in self.settings.requests:
            return f"the profile of this device does not allow `{request.kind}` (`agent.requests`)"
        if request.not_before > self.actions.clock() + SKEW:
            return "it is not valid yet: the clock of this device is late"
        if request.kind not in ANYTIME and self.actions.is_busy():
            return "an update is being installed, switched or rolled back: request it again later"
        return None

    def repeat_result(self, record: RequestRecord, seen: SeenRequest, digest: str) -> None:
        """Answer a request that was seen before. It is not carried out again. Raises `OSError`."""
        if seen.stage is RequestStage.begun:  # no other process carries requests out: a kill has ended it
            self.finish_request(record, seen, RequestStage.failed, INTERRUPTED)
        elif seen.stage is not RequestStage.rebooting:
            reason = "; ".join((f"it was carried out already: {seen.stage}", *seen.details))
            self.store_rejection(digest, reason)

    def begin_request(self, record: RequestRecord, request: OperatorRequest, digest: str) -> None:
        """Record a request, then carry it out. Raises `OSError`."""
        objection = self.find_objection(request)
        seen = SeenRequest(
            id=request.id, digest=digest, kind=request.kind, expires=request.expires,
            stage=RequestStage.rejected if objection else RequestStage.begun, boot=read_boot_id(self.system),
            slot=self.system.argument("edge.slot") or "", details=(objection,) if objection else (),
        )  # fmt: skip
        record = record.add_request(seen, self.actions.clock())
        save_requests(self.system, record)  # on the disk, before anything is done
        if objection:
            self.store_rejection(digest, objection)
            return
        print(f"edge-agent: an operator requests {request.kind} (request {request.id})", flush=True)
        try:
            self.carry_out(record, seen)
        except Problem as problem:
            self.finish_request(record, seen, RequestStage.failed, *problem.details())
        except OSError as error:
            self.finish_request(record, seen, RequestStage.failed, f"{error.filename or ''}: {error.strerror or error}")

    def carry_out(self, record: RequestRecord, seen: SeenRequest) -> None:
        """Do what a recorded request asks for. Raises `Problem` and `OSError`."""
        match seen.kind:
            case RequestKind.diagnostics:
                data = self.actions.collect()
                if len(data) > LARGEST_ARCHIVE:
                    raise Problem(f"the diagnostics have {len(data)} bytes, and at most {LARGEST_ARCHIVE} are sent")
                request_files.store_archive(self.system, data)
                self.finish_request(record, seen, RequestStage.succeeded, f"{len(data)} bytes", archive=True)
            case RequestKind.rotate:
                self.finish_request(record, seen, RequestStage.granted)
            case RequestKind.reboot | RequestKind.rollback:
                # Stored first: a power cut after the switch to the other slot is a reboot too.
                save_requests(self.system, record.replace_request(replace(seen, stage=RequestStage.rebooting)))
                text = self.actions.roll_back() if seen.kind is RequestKind.rollback else None
                if text is not None:
                    self.finish_request(record, seen, RequestStage.succeeded, text)
                else:
                    self.actions.reboot()
            case RequestKind.wipe:
                self.actions.wipe(lambda: self.announce_wipe(record, seen))

    def announce_wipe(self, record: RequestRecord, seen: SeenRequest) -> None:
        """Let the unprivileged part tell the server, while it has a key. An unreachable server does not stop a wipe."""
        self.finish_request(record, seen, RequestStage.succeeded, "the device wipes itself")
        end = time.monotonic() + self.announcement
        while time.monotonic() < end and not request_files.is_reported(self.system, seen.digest):
            time.sleep(0.2)

    def finish_request(
        self, record: RequestRecord, seen: SeenRequest, stage: RequestStage, *details: str, archive: bool = False
    ) -> None:
        """Record how a request has ended, and tell the unprivileged part. Raises `OSError`."""
        ended = replace(seen, stage=stage, details=details)
        save_requests(self.system, record.replace_request(ended))
        request_files.store_result(self.system, StoredResult(seen.digest, stage, details, archive))

    def store_rejection(self, digest: str, reason: str) -> None:
        """Tell the unprivileged part why a request is not carried out, unless it has a result. Raises `OSError`."""
        print(f"edge-agent: a request of an operator is rejected: {reason}", flush=True)
        stored = request_files.load_result(self.system, digest)
        if stored is not None and stored.stage is not RequestStage.rejected:
            return
        request_files.store_result(self.system, StoredResult(digest, RequestStage.rejected, (reason,)))


def find_last_result(system: System, clock: int) -> None:
    """Find out how the last request has ended, after a reboot. Runs before the unprivileged part. Raises `OSError`.

    The record is created if there is none: requests from before this moment are never accepted.
    """
    record = load_requests(system)
    if record is None:
        save_requests(system, RequestRecord(clock))
        return
    boot, slot = read_boot_id(system), system.argument("edge.slot") or ""
    judged = tuple(judge_reboot(seen, slot) if seen.boot != boot else seen for seen in record.requests)
    if judged != record.requests:
        record = replace(record, requests=judged)
        save_requests(system, record)
    last = record.last
    if last is None or last.stage in UNFINISHED:
        return
    if request_files.load_result(system, last.digest) is None:
        request_files.store_result(system, after_restart(last))


def judge_reboot(seen: SeenRequest, slot: str) -> SeenRequest:
    """Return a request with its result, which a later boot knows. `slot` is running."""
    if seen.stage not in UNFINISHED:
        return seen
    if seen.stage is RequestStage.begun and seen.kind is not RequestKind.reboot:
        return replace(seen, stage=RequestStage.failed, details=(INTERRUPTED,))
    if seen.kind is RequestKind.rollback and seen.slot == slot:
        text = f"slot {slot} is running again: `edge-agent explain` says why"
        return replace(seen, stage=RequestStage.failed, details=(text,))
    return replace(seen, stage=RequestStage.succeeded, details=(f"the device has restarted, in slot {slot or '?'}",))


def after_restart(seen: SeenRequest) -> StoredResult:
    """Return the result of a request that has ended, without the diagnostics: they are lost at a reboot."""
    if seen.kind is RequestKind.diagnostics and seen.stage is RequestStage.succeeded:
        return StoredResult(seen.digest, RequestStage.failed, (INTERRUPTED,))
    return StoredResult(seen.digest, seen.stage, seen.details)
