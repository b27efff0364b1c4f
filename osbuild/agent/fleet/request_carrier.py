"""Carries requests of operators from the update server to root, and their results back. Runs without root rights."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from osbuild.agent.errors import Problem
from osbuild.agent.fleet import request_files
from osbuild.agent.fleet.connection import FleetServer, ServerUnreachable
from osbuild.agent.fleet.messages import text_at
from osbuild.agent.fleet.request_files import StoredResult
from osbuild.agent.fleet.request_record import RequestStage
from osbuild.agent.system import System
from osbuild.shared.operator_requests import RequestResult

OVER = frozenset({200, 404, 409, 410})  # the server has the result, or does not wait for it
REFUSED = frozenset({400, 413, 415, 422})  # the server will never accept it
LONGEST_LINE = 500  # characters of a line that is reported


@dataclass(frozen=True)
class RequestCarrier:
    """`rotate` makes a new key, gets a certificate for it, and returns the server as seen with that certificate."""

    system: System
    rotate: Callable[[], FleetServer]

    def carry(self, server: FleetServer, address: str, *, updating: bool) -> FleetServer:
        """Hand the request at `address` to root, or its result to the server; return the server to use from now on.

        While this device is `updating`, it keeps its key. Raises `ServerUnreachable` and `OSError`.
        """
        answer = server.get(address)
        if answer.status != 200:
            raise ServerUnreachable(f"it answers {answer.status} to the question for a request")
        data = text_at(answer.document, "request").encode()
        result = request_files.load_result(self.system, request_files.digest_request(data))
        if result is None:
            request_files.offer_request(self.system, data)
            return server
        if result.stage is not RequestStage.granted:
            self.report(server, address, result)
            return server
        if updating:  # RAUC downloads with the old certificate, which the server will revoke
            return server
        try:
            rotated = self.rotate()
        except Problem as problem:
            self.report(server, address, StoredResult(result.digest, RequestStage.failed, problem.details()))
            return server
        done = ("this device has a new key and a new certificate",)
        self.report(rotated, address, StoredResult(result.digest, RequestStage.succeeded, done))
        return rotated

    def report(self, server: FleetServer, address: str, result: StoredResult) -> None:
        """Send a result, the diagnostics first. Raises `ServerUnreachable`."""
        if result.archive:
            try:
                archive = request_files.load_archive(self.system)
            except OSError as error:
                result = StoredResult(result.digest, RequestStage.failed, (f"the diagnostics are lost: {error}",))
            else:
                self.check_status(server.upload(f"{address}/diagnostics", archive).status)
        self.check_status(server.send("POST", f"{address}/result", describe_result(result)).status)
        request_files.mark_reported(self.system, result.digest)

    def check_status(self, status: int) -> None:
        """Raise `ServerUnreachable` if the server may accept the same later."""
        if status in REFUSED:
            print(f"edge-agent: the update server refuses the result of a request: {status}", flush=True)
        elif status not in OVER:
            raise ServerUnreachable(f"it answers {status} to the result of a request")


def describe_result(result: StoredResult) -> dict[str, Any]:
    """Return the document of a result."""
    details = [line[:LONGEST_LINE] for text in result.details for line in text.splitlines() if line.strip()]
    return {"state": RequestResult(result.stage), "details": details[:20]}
