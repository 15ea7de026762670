# SPDX-License-Identifier: Apache-2.0
"""What was taken back, over HTTPS: for verifiers that no attestor tells, and for checkers of CRLs.

``/status`` is the signed snapshot; ``/crl/KEY_ID`` the revocation list of the X.509 authority with that
subject key identifier, lower-case hex; ``/crls`` names them, one a line.
"""

import ssl
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from cryptography import x509

from issuer.config import StatusEndpointTable
from issuer.governance.revocation import Publisher
from spiffekit.daemon import http_server
from spiffekit.daemon.http_server import NOT_FOUND, Reply
from spiffekit.daemon.lifecycle import Service

_UNKNOWN: Final = Reply(b"not known yet\n", status=HTTPStatus.SERVICE_UNAVAILABLE)
_LIST: Final = "/crl/"


def serve(table: StatusEndpointTable, publisher: Publisher, context: Callable[[], ssl.SSLContext]) -> Service:
    """Return the service; `context` gives the TLS context of each connection."""

    def respond(target: str) -> Reply:
        current = publisher.current
        if not current.status:
            return _UNKNOWN
        if target == "/status":
            return Reply(current.status.encode("ascii"), "application/jwt")
        lists = {_key_id(crl): crl for crl in current.crls} if target.startswith("/crl") else {}
        if target == "/crls":
            return Reply("".join(f"{key_id}\n" for key_id in lists).encode("ascii"))
        crl = lists.get(target.removeprefix(_LIST)) if target.startswith(_LIST) else None
        return NOT_FOUND if crl is None else Reply(crl, "application/pkix-crl")

    return http_server.serve(table.address, table.port, respond, context=context)


def _key_id(crl_der: bytes) -> str:
    extensions = x509.load_der_x509_crl(crl_der).extensions
    key_id = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    return "" if key_id is None else key_id.hex()
