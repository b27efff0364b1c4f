"""Counts requests, and writes them to the log if that is wanted."""

import time
from collections.abc import Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from osbuild.fleet.operations.metrics import RequestMetrics
from osbuild.fleet.requester import noted_requester
from osbuild.host import log

LONGEST_PATH = 300
ABORTED = "aborted"  # the client has closed its connection before an answer


class RequestRecorder:
    """An ASGI application that records the requests for another one.

    `routes` are the paths of routes, by their endpoints. The log has no headers, queries or bodies, because they may
    contain secrets.
    """

    def __init__(
        self, application: ASGIApp, routes: Mapping[Any, str], metrics: RequestMetrics, *, log_requests: bool
    ) -> None:
        self._application = application
        self._routes = routes
        self._metrics = metrics
        self._log_requests = log_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        begin, status = time.perf_counter(), ABORTED

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            await self._application(scope, receive, send_and_note)
        except Exception:
            status = "500"
            raise
        finally:
            self._record(scope, status, time.perf_counter() - begin)

    def _record(self, scope: Scope, status: str, seconds: float) -> None:
        self._metrics.count(scope["method"], self._routes.get(scope.get("endpoint"), "none"), status, seconds)
        if self._log_requests:
            client = scope.get("client")
            log.event(
                "request", method=scope["method"], path=scope["path"][:LONGEST_PATH], status=status,
                seconds=round(seconds, 6), requester=noted_requester(scope), address=client[0] if client else "",
            )  # fmt: skip
