"""Requests of operators for tests: signed by an authority as that of an update server."""

from dataclasses import dataclass
from pathlib import Path

from osbuild.fleet.authorities import load_authority
from osbuild.fleet.request_signer import RequestSigner
from osbuild.fleet.requests import make_request_id
from osbuild.keys.certificate import to_pem
from osbuild.shared.operator_requests import FORMAT, OperatorRequest, RequestKind

MINUTE = 60_000  # milliseconds


@dataclass(frozen=True)
class RequestIssuer:
    """Signs requests, with its authority in `folder`."""

    folder: Path

    @property
    def authority(self) -> str:
        return to_pem(load_authority(self.folder, "server-ca").certificate).decode()

    def issue(self, device: str, kind: RequestKind, now: int, minutes: int = 60) -> bytes:
        """Return a signed request of now."""
        return self.sign(
            OperatorRequest(
                id=make_request_id(), device=device, kind=kind, not_before=now, expires=now + minutes * MINUTE,
                format=FORMAT,
            )
        )  # fmt: skip

    def sign(self, request: OperatorRequest) -> bytes:
        signer = RequestSigner(self.folder, load_authority(self.folder, "server-ca"))
        return signer.sign_request(request).encode()
