# SPDX-License-Identifier: Apache-2.0
"""The few requests that we make of a Kubernetes API server, or of a kubelet."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from spiffekit.daemon.http import Answer, HttpError, request
from spiffekit.daemon.kubernetes.access import Access, AccessError
from spiffekit.daemon.kubernetes.objects import (
    PODS,
    Node,
    O,
    Pod,
    Resource,
    Status,
    TokenReview,
    TokenVerdict,
)

T = TypeVar("T")

WITHIN: Final = timedelta(seconds=10)  # for one request; a server that hangs must not hang us
MAX_LIST: Final = 64 * 1024 * 1024  # bytes of one answer: thousands of pods; a kubelet cannot send pages
MAX_OBJECT: Final = 4 * 1024 * 1024  # bytes of one object; etcd keeps none larger than 1.5 MB
PAGE: Final = 500  # objects in one answer
UNREADABLE: Final = (
    msgspec.DecodeError,
    UnicodeDecodeError,
    RecursionError,
)  # of what is not as it should be
_MAX_REASON: Final = 200  # characters of the server's words in our errors


class KubernetesError(Exception):
    """The server cannot be asked, or refused; `code` is the HTTP status if there was one."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class KubernetesClient:
    """Asks one server."""

    def __init__(self, access: Access) -> None:
        self._access = access

    async def pod(self, namespace: str, name: str) -> Pod:
        """Return a pod.

        Raises:
            KubernetesError: There is none (code 404), or it cannot be asked for.
        """
        return await self.get(f"/api/v1/namespaces/{quote(namespace, '')}/pods/{quote(name, '')}", Pod)

    async def node(self, name: str) -> Node:
        """Return a node.

        Raises:
            KubernetesError: As with `pod`.
        """
        return await self.get(f"/api/v1/nodes/{quote(name, '')}", Node)

    async def pods(self, field_selector: str = "") -> tuple[list[Pod], str]:
        """Return all pods; see `all`."""
        return await self.all(PODS, field_selector)

    async def all(self, resource: Resource[O], field_selector: str = "") -> tuple[list[O], str]:
        """Return all objects, asked for page by page, and the resource version that they are of.

        Raises:
            KubernetesError: They cannot be asked for; code 410: the list grew too old between two pages.
        """
        found: list[O] = []
        query = {"limit": str(PAGE), "fieldSelector": field_selector}
        while True:
            page = await self.get(f"/api/v1/{resource.plural}", resource.page, query, limit=MAX_LIST)
            found += page.items or ()
            if not page.metadata.continue_token:
                return found, page.metadata.resource_version
            query["continue"] = page.metadata.continue_token

    async def review(self, token: str, audiences: tuple[str, ...]) -> TokenVerdict:
        """Return what the server says of a service account's token, for these audiences.

        Raises:
            KubernetesError: It cannot be asked.
        """
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": audiences},
        }
        reviewed = await self.create("/apis/authentication.k8s.io/v1/tokenreviews", body, TokenReview)
        return reviewed.status

    async def get(
        self, path: str, kind: type[T], query: Mapping[str, str] | None = None, *, limit: int = MAX_OBJECT
    ) -> T:
        """Return an object.

        Raises:
            KubernetesError: There is none (code 404), or it cannot be asked for.
        """
        return await self._call("GET", _target(path, query), kind, b"", limit)

    async def create(self, path: str, body: Any, kind: type[T]) -> T:
        """Create an object and return the answer.

        Raises:
            KubernetesError: It was refused.
        """
        return await self._call("POST", path, kind, msgspec.json.encode(body), MAX_OBJECT)

    async def _call(self, method: str, target: str, kind: type[T], body: bytes, limit: int) -> T:
        headers = {"accept": "application/json"}
        if body:
            headers["content-type"] = "application/json"
        try:
            async with (
                asyncio.timeout(WITHIN.total_seconds()),
                request(
                    self._access.peer(),
                    method,
                    self._access.prefix + target,
                    headers=headers | self._access.headers(),
                    body=body,
                ) as answer,
            ):
                await _require_success(answer)
                return msgspec.json.decode(await answer.body(limit), type=kind)
        except TimeoutError as error:
            raise KubernetesError(f"{self._access.host} did not answer within {WITHIN.seconds} s") from error
        except (HttpError, AccessError) as error:
            raise KubernetesError(str(error)) from error
        except UNREADABLE as error:
            raise KubernetesError(f"{self._access.host} answered with another thing: {error}") from error

    async def lines(self, path: str, query: Mapping[str, str]) -> AsyncIterator[bytes]:
        """Yield the lines of an answer as they come; an empty one first, when the server has agreed.

        The caller sets the deadline.

        Raises:
            KubernetesError: The server refused, or the answer was cut off.
        """
        rest = bytearray()
        try:
            async with request(
                self._access.peer(),
                "GET",
                self._access.prefix + _target(path, query),
                headers={"accept": "application/json"} | self._access.headers(),
            ) as answer:
                await _require_success(answer)
                yield b""
                async for piece in answer.pieces():
                    rest += piece
                    while (end := rest.find(b"\n")) >= 0:
                        yield bytes(rest[:end])
                        del rest[: end + 1]
                    if len(rest) > MAX_OBJECT:
                        raise KubernetesError(f"{self._access.host} sent an endless line")
        except (HttpError, AccessError) as error:
            raise KubernetesError(str(error)) from error


def _target(path: str, query: Mapping[str, str] | None) -> str:
    asked = urlencode({key: value for key, value in (query or {}).items() if value})
    return f"{path}?{asked}" if asked else path


async def _require_success(answer: Answer) -> None:
    if 200 <= answer.status < 300:
        return
    try:
        said = msgspec.json.decode(await answer.body(MAX_OBJECT), type=Status).message
    except UNREADABLE:
        said = ""  # a kubelet or a proxy says it in words of its own
    raise KubernetesError(f"status {answer.status} {said[:_MAX_REASON]!r}", answer.status)
