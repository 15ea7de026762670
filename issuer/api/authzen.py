# SPDX-License-Identifier: Apache-2.0
"""The AuthZEN Authorization API 1.0 over HTTPS: gateways ask, one decision at a time or several.

The subject is the agent, by its SPIFFE ID; or, as MCP gateways ask, whoever the agent acts for, with the
agent in the context. The action is a tool's call or an HTTP request. Searching is not offered.
"""

import logging
import secrets
import ssl
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final

from issuer.api.authorization import HTTP_TABLE, authorize
from issuer.api.caller import Callers
from issuer.api.decisions import Answer, Decisions, Question, plain
from issuer.api.dispatch import STATUS, Call
from issuer.errors import InvalidRequestError, NotAuthorizedError
from spiffekit.daemon import http_calls
from spiffekit.daemon.clock import Clock
from spiffekit.daemon.http_calls import Request, Response
from spiffekit.daemon.http_server import Reply
from spiffekit.daemon.lifecycle import Service
from spiffekit.daemon.peer import PeerUnknownError
from spiffekit.errors import PolicyError, SpiffeIdError
from spiffekit.id import SpiffeId
from spiffekit.jwk import parse_json_object, to_json
from spiffekit.policy import Http, Resource
from spiffekit.policy.request import HTTP, TOOL

logger = logging.getLogger(__name__)

MAX_BODY: Final = 64 * 1024  # bytes
MAX_EVALUATIONS: Final = 50  # in one request
MAX_REQUEST_ID: Final = 128  # characters
EVALUATION: Final = "/access/v1/evaluation"
EVALUATIONS: Final = "/access/v1/evaluations"
METADATA: Final = "/.well-known/authzen-configuration"
_AGENT: Final = "agent"  # the subject's type
_MCP: Final = "tools/call"  # the action's name in the binding for MCP
_UNTIL: Final = {"execute_all": None, "deny_on_first_deny": False, "permit_on_first_permit": True}
_JSON: Final = "application/json"


class AuthZen:
    """Answers requests. `serve` puts it behind a port."""

    def __init__(
        self,
        decisions: Decisions,
        *,
        callers: Callers,
        clock: Clock,
        url: str = "",
    ) -> None:
        self._decisions = decisions
        self._callers = callers
        self._clock = clock
        self._url = url

    def serve(self, address: str, port: int, context: Callable[[], ssl.SSLContext]) -> Service:
        """Return the service; `context` gives each connection a TLS context that demands a certificate."""
        return http_calls.serve(address, port, self.answer, context=context, max_body=MAX_BODY)

    async def answer(self, request: Request) -> Response:
        """Answer a request; whatever is wrong with it, or with us, becomes a status."""
        request_id = request.header("x-request-id")
        try:
            if request_id is None or not _is_identifier(request_id):
                request_id = ""
                raise InvalidRequestError(
                    f"X-Request-ID: is there twice, or not at most {MAX_REQUEST_ID} characters of ASCII"
                )
            reply, close = await self._reply(request, request_id), False
        except PeerUnknownError:
            reply, close = _error(HTTPStatus.UNAUTHORIZED, "client certificate refused"), True
        except NotAuthorizedError as error:
            reply, close = _error(HTTPStatus.FORBIDDEN, str(error)), True
        except InvalidRequestError as error:
            reply, close = _error(HTTPStatus.BAD_REQUEST, str(error)), False
        except Exception as error:  # the boundary: every error becomes a status
            logger.exception("question failed", extra={"request": request_id})
            message = STATUS.status_of(error).message
            reply, close = _error(HTTPStatus.INTERNAL_SERVER_ERROR, message), True
        return Response(reply, {"x-request-id": request_id} if request_id else {}, close)

    async def _reply(self, request: Request, request_id: str) -> Reply:
        call = await self._call(request)
        if request.target == METADATA:
            return self._metadata(request)
        if request.method != "POST":
            return _error(HTTPStatus.METHOD_NOT_ALLOWED, "method not allowed")
        kind = (request.header("content-type") or "").partition(";")[0].strip().lower()
        if kind != _JSON:
            raise InvalidRequestError(f"Content-Type: is not {_JSON}")
        try:
            body = parse_json_object(request.body, MAX_BODY)
        except ValueError as error:
            raise InvalidRequestError(f"body: {error}") from error
        if request.target == EVALUATIONS and body.get("evaluations", []) != []:
            return await self._several(body, call, request_id)
        (answer,) = await self._decisions.decide([question_of(body, request_id)], call)
        return _json(_decision(answer))

    async def _call(self, request: Request) -> Call:
        """Return who asks, having authorised it: its certificate is judged anew for each request."""
        connection = self._callers.identify(request.peer)
        caller = await self._callers.judge(connection)
        authorize(request.target, caller.kinds, HTTP_TABLE)
        return Call(request.target, caller, connection, self._clock.now(), secrets.token_hex(8))

    async def _several(self, body: Mapping[str, Any], call: Call, request_id: str) -> Reply:
        """Decide what stands in `evaluations`; what is wrong with one of them is its own denial (§7.2.1)."""
        given = body["evaluations"]
        if not isinstance(given, list) or len(given) > MAX_EVALUATIONS:
            raise InvalidRequestError(f"evaluations: is not a list of at most {MAX_EVALUATIONS}")
        semantic = _object(body, "options", default={}).get("evaluations_semantic", "execute_all")
        if not isinstance(semantic, str) or semantic not in _UNTIL:
            raise InvalidRequestError(f"options.evaluations_semantic: is none of {', '.join(_UNTIL)}")
        defaults = {name: body[name] for name in ("subject", "action", "resource", "context") if name in body}
        asked = [_question_or_error(defaults, one, request_id) for one in given]
        answers = await self._decisions.decide(asked, call, until=_UNTIL[semantic])
        return _json({"evaluations": [_decision(answer) for answer in answers]})

    def _metadata(self, request: Request) -> Reply:
        if request.method != "GET":
            return _error(HTTPStatus.METHOD_NOT_ALLOWED, "method not allowed")
        if not self._url:
            return _error(HTTPStatus.NOT_FOUND, "not found")
        return _json(
            {
                "policy_decision_point": self._url,
                "access_evaluation_endpoint": self._url + EVALUATION,
                "access_evaluations_endpoint": self._url + EVALUATIONS,
            }
        )


def question_of(body: Mapping[str, Any], request_id: str = "") -> Question:
    """Return what one evaluation asks.

    Args:
        body: The parsed request, or a member of `evaluations` with the defaults that it goes without. What is
            not known in it is passed over (§10.1.1); it must not be able to change a decision.
        request_id: Of the request; it is recorded.

    Raises:
        InvalidRequestError: A field is missing, malformed, or not known here; the message names it.
    """
    subject, action, resource = (_object(body, name) for name in ("subject", "action", "resource"))
    kind, who = _text(subject, "subject", "type"), _text(subject, "subject", "id")
    named = _object(body, "context", default={}).get("agent", who if kind == _AGENT else None)
    said: dict[str, object] = {"request": request_id} if request_id else {}
    if kind == _AGENT:
        if named != who:
            raise InvalidRequestError("context.agent: is not the subject, which is an agent itself")
    elif not isinstance(named, str):
        raise InvalidRequestError("context.agent: is missing, and the subject is no agent")
    else:
        said |= {"user": plain("subject.id", who), "user_type": plain("subject.type", kind)}
    try:
        agent = SpiffeId.parse(named)
    except SpiffeIdError as error:
        raise InvalidRequestError(
            f"{'subject.id' if kind == _AGENT else 'context.agent'}: {error}"
        ) from error
    target, name = (
        _text(resource, "resource", "type"),
        plain("resource.id", _text(resource, "resource", "id")),
    )
    does, properties = _text(action, "action", "name"), _object(action, "properties", "action.", default={})
    match target:
        case "tool":
            if does not in (TOOL, _MCP, f"tool:{name}"):
                raise InvalidRequestError(
                    f"action.name: of a tool it is {TOOL}, {_MCP} or tool: and its name"
                )
            arguments = _object(properties, "arguments", "action.properties.", default={})
            return Question(
                agent=agent, resource=Resource(kind="Tool", id=name), arguments=arguments, asked=said
            )
        case "service":
            if does != HTTP:
                raise InvalidRequestError(f"action.name: of a service it is {HTTP}")
            method, path = (_text(properties, "action.properties", part) for part in ("method", "path"))
            http, flaw = None, ""
            try:
                http = Http.parse(method, path)
            except PolicyError as error:  # the agent may have written both, and must not cause an error
                flaw = f"action.properties.{error}"
            service = Resource(kind="Service", id=name)
            return Question(agent=agent, resource=service, http=http, flaw=flaw, asked=said)
        case _:
            raise InvalidRequestError(f"resource.type: {target[:80]!r} is neither 'tool' nor 'service'")


def _question_or_error(defaults: Mapping[str, Any], one: object, request_id: str) -> Question | Answer:
    """Return what a member of `evaluations` asks; what is wrong with it is its own denial (§7.2.1)."""
    try:
        if not isinstance(one, dict):
            raise InvalidRequestError("evaluations: has a member that is no object")
        return question_of({**defaults, **one}, request_id)
    except InvalidRequestError as error:
        return Answer(HTTPStatus.BAD_REQUEST, str(error))


def _is_identifier(text: str) -> bool:
    """Tell whether an identifier of a request can be recorded, and be sent back in a header."""
    return len(text) <= MAX_REQUEST_ID and text.isascii() and text.isprintable()


def _object(
    body: Mapping[str, Any], name: str, prefix: str = "", *, default: dict[str, Any] | None = None
) -> dict[str, Any]:
    value = body.get(name, default)
    if value is None:
        raise InvalidRequestError(f"{prefix}{name}: is missing")
    if not isinstance(value, dict):
        raise InvalidRequestError(f"{prefix}{name}: is not an object")
    return value


def _text(body: Mapping[str, Any], prefix: str, name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidRequestError(f"{prefix}.{name}: is missing, or no text")
    return value


def _decision(answer: Answer) -> dict[str, Any]:
    if answer.status in (HTTPStatus.OK, HTTPStatus.FORBIDDEN):
        said = {"eval_id": answer.eval_id, "reason": answer.reason}
        return {"decision": answer.allowed, "context": {name: text for name, text in said.items() if text}}
    error = {"status": answer.status.value, "message": answer.reason}
    return {"decision": False, "context": {"error": error}}


def _json(value: Mapping[str, Any]) -> Reply:
    return Reply(to_json(value), _JSON)


def _error(status: HTTPStatus, message: str) -> Reply:
    return Reply(f"{message}\n".encode(), status=status)
