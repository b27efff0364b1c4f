"""HTTP connections of uvicorn that tell the application which certificate the client has."""

import ssl
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class SecureProtocol(HttpToolsProtocol):
    """Adds the client's certificate to each request, as in the ASGI specification's TLS extension."""

    _tls: dict[object, object] | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        connection: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        certificate = None if connection is None else connection.getpeercert(binary_form=True)
        if certificate is not None:
            self._tls = {"client_cert_chain": [ssl.DER_cert_to_PEM_cert(certificate)]}

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._tls is not None:
            self.scope["extensions"] = {"tls": self._tls}
