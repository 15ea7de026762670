# SPDX-License-Identifier: Apache-2.0
"""Envoy's external authorization: may the agent at the other end of this connection send this request?

Who the agent is, is what Envoy has verified in its certificate. What it asks for is what the route's
configuration says (`context_extensions`): a tool, or a service, of which method and path are judged. Nothing
is read that the client could write there. Nothing is added to the request or its answer.
"""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final
from urllib.parse import unquote_to_bytes

import grpc
from cryptography import x509

from issuer.api.decisions import Answer, Decisions, Question, plain
from issuer.api.dispatch import Call
from issuer.errors import InvalidRequestError
from spiffekit.certificates import spiffe_id_of
from spiffekit.errors import PolicyError, SpiffeError, SpiffeIdError
from spiffekit.id import SpiffeId
from spiffekit.policy import Http, Resource
from spiffekit.wire.pb.envoy.service.auth.v3 import external_auth_pb2 as pb

logger = logging.getLogger(__name__)

MAX_CERTIFICATE: Final = 64 * 1024  # bytes, with percent-encoding
KINDS: Final = {"tool": "Tool", "service": "Service"}
_CODES: Final = {
    HTTPStatus.OK: grpc.StatusCode.OK,
    HTTPStatus.BAD_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    HTTPStatus.FORBIDDEN: grpc.StatusCode.PERMISSION_DENIED,
    HTTPStatus.TOO_MANY_REQUESTS: grpc.StatusCode.RESOURCE_EXHAUSTED,
    HTTPStatus.SERVICE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    HTTPStatus.INTERNAL_SERVER_ERROR: grpc.StatusCode.INTERNAL,
}


class ExtAuthzService:
    """See the module."""

    def __init__(self, decisions: Decisions) -> None:
        self._decisions = decisions

    async def Check(self, request: pb.CheckRequest, call: Call) -> pb.CheckResponse:  # noqa: N802 - the method's name on the wire
        """Decide about one request. Whatever goes wrong is a denial: Envoy may let pass what fails."""
        try:
            (answer,) = await self._decisions.decide([_question(request.attributes)], call)
        except InvalidRequestError as error:
            answer = Answer(HTTPStatus.FORBIDDEN, str(error))
            logger.info(
                "request denied unasked", extra={"gateway": call.caller.actor, "reason": answer.reason}
            )
        except Exception:  # the boundary: an error of ours must let nobody pass
            logger.exception("request denied by an error", extra={"call": call.id})
            answer = Answer(HTTPStatus.INTERNAL_SERVER_ERROR)
        return _response(answer)


def _question(attributes: pb.AttributeContext) -> Question:
    """Return what is to be decided.

    Raises:
        InvalidRequestError: It is not known of whom, or about what.
    """
    agent = _agent(attributes.source.principal)
    resource = _resource(attributes.context_extensions)
    http, flaw = None, ""
    if resource.kind == "Service":
        try:
            http = Http.parse(_text(attributes.request.http.method), _text(attributes.request.http.path))
        except PolicyError as error:
            flaw = str(error)
    serial = ""
    if attributes.source.certificate:
        try:
            serial = _serial(attributes.source.certificate, agent)
        except (SpiffeError, ValueError) as error:
            raise InvalidRequestError("source.certificate: is none of the principal's") from error
    return Question(
        agent=agent,
        resource=resource,
        http=http,
        serial=serial,
        flaw=flaw,
        asked=_said(_text(attributes.request.http.id)),
    )


def _agent(principal: str) -> SpiffeId:
    try:
        return SpiffeId.parse(principal)
    except SpiffeIdError as error:
        raise InvalidRequestError(f"source.principal: {error}") from error


def _resource(extensions: Mapping[str, str]) -> Resource:
    """Return what the route is about, by the word of the proxy's configuration."""
    named = [(kind, extensions[name]) for name, kind in KINDS.items() if name in extensions]
    if len(named) != 1:
        raise InvalidRequestError("context_extensions: has to have one of tool and service")
    ((kind, name),) = named
    return Resource(kind=kind, id=plain("context_extensions", name))


def _serial(certificate: str, agent: SpiffeId) -> str:
    """Return the serial number of an agent's certificate, decimal."""
    if len(certificate) > MAX_CERTIFICATE:
        raise ValueError("is too long")
    leaf = x509.load_pem_x509_certificate(unquote_to_bytes(certificate))
    if spiffe_id_of(leaf) != agent:
        raise ValueError("is somebody else's")
    return str(leaf.serial_number)


def _text(written: bytes) -> str:
    """Return what a client wrote; what is no ASCII becomes what no rule lets pass."""
    return written.decode("ascii", "backslashreplace")


def _said(request_id: str) -> dict[str, object]:
    """Return the identifier of the request, unless it is one that nobody would write down."""
    try:
        return {"request": plain("id", request_id)}
    except InvalidRequestError:
        return {}


def _response(answer: Answer) -> pb.CheckResponse:
    """Return the answer as Envoy takes it. The client hears no reason: it is in the trail."""
    status = pb.Status(code=_CODES[answer.status].value[0])
    if answer.allowed:
        return pb.CheckResponse(status=status, ok_response=pb.OkHttpResponse())
    denied = pb.DeniedHttpResponse(status=pb.HttpStatus(code=answer.status.value))
    return pb.CheckResponse(status=status, denied_response=denied)
