"""Signs requests of operators (CMS, RFC 5652), with a certificate of the authority that devices trust."""

from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.hazmat.primitives.serialization.pkcs7 import PKCS7Options, PKCS7SignatureBuilder

from osbuild.fleet.authorities import Authority, load_request_certificate
from osbuild.shared.locks import hold_file_lock
from osbuild.shared.operator_requests import OperatorRequest


@dataclass(frozen=True)
class RequestSigner:
    """Keeps its certificate and key in `folder`, and renews them. `authority` issues the certificate."""

    folder: Path
    authority: Authority

    def sign_request(self, request: OperatorRequest) -> str:
        """Return a request with its signature as PEM. Raises `Error`."""
        with hold_file_lock(self.folder):  # several servers may share it
            certificate, key = load_request_certificate(self.folder, self.authority)
        builder = PKCS7SignatureBuilder().set_data(request.encode())
        builder = builder.add_signer(certificate, key, hashes.SHA256())
        return builder.sign(Encoding.PEM, [PKCS7Options.Binary]).decode()
