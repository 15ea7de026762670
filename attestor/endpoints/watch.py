# SPDX-License-Identifier: Apache-2.0
"""What the issuer says of the whole trust domain, for local verifiers on the public socket.

Any process may ask: what is told is signed, and no secret. The rules of the socket hold, and the answer is
rendered once for all.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from typing import Any, Generic, TypeVar

import grpc

from attestor.cache import Cache, Watcher
from attestor.endpoints.admission import Admission, Context
from attestor.policies import PolicyShelf
from attestor.revocation import TakenBack
from spiffekit.wire.pb.attestor.v1 import policies_pb2, status_pb2
from spiffekit.wire.status import abort

S = TypeVar("S")


class _Watch(ABC, Generic[S]):
    """A service of one method, `Watch`: all that is known, and again with everything that is new."""

    def __init__(self, service: Any, admission: Admission) -> None:
        self._service = service
        self._admission = admission
        self._rendered: tuple[S, bytes] | None = None

    @abstractmethod
    def _watching(self) -> AbstractContextManager[Watcher]:
        """Yield something that misses nothing new."""

    @abstractmethod
    def _said(self) -> S:
        """Return what is known: the same object as long as it is the same."""

    @abstractmethod
    def _message(self, said: S) -> bytes:
        """Return the message that says so."""

    def handler(self) -> grpc.GenericRpcHandler:
        """Return the gRPC handler of the service."""
        # Whatever is asked, everything is answered: nothing of the request is looked at.
        watch = grpc.unary_stream_rpc_method_handler(self._watch, bytes, lambda rendered: rendered)
        return grpc.method_handlers_generic_handler(self._service.full_name, {"Watch": watch})

    async def _watch(self, _request: bytes, context: Context) -> AsyncIterator[bytes]:
        try:
            process = self._admission.admit(context)
            with self._admission.streaming(process), self._watching() as watcher:
                while True:
                    yield self._current()
                    await watcher.wait()
                    process.require_alive()
        except Exception as error:  # noqa: BLE001 - the RPC boundary: every error becomes a status
            await abort(context, self._admission.refuse(error).status)

    def _current(self) -> bytes:
        said = self._said()
        if self._rendered is None or self._rendered[0] is not said:
            self._rendered = (said, self._message(said))
        return self._rendered[1]


class Status(_Watch[TakenBack]):
    """attestor.v1.Status: what was taken back."""

    def __init__(self, cache: Cache, admission: Admission) -> None:
        super().__init__(status_pb2.DESCRIPTOR.services_by_name["Status"], admission)
        self._cache = cache

    def _watching(self) -> AbstractContextManager[Watcher]:
        return self._cache.watching_revocations()

    def _said(self) -> TakenBack:
        return self._cache.taken_back

    def _message(self, said: TakenBack) -> bytes:
        return status_pb2.WatchResponse(status=said.token, crls=said.crls).SerializeToString()


class Policies(_Watch[str]):
    """attestor.v1.Policies: which policies hold, and for which agents."""

    def __init__(self, shelf: PolicyShelf, admission: Admission) -> None:
        super().__init__(policies_pb2.DESCRIPTOR.services_by_name["Policies"], admission)
        self._shelf = shelf

    def _watching(self) -> AbstractContextManager[Watcher]:
        return self._shelf.watching()

    def _said(self) -> str:
        return self._shelf.token

    def _message(self, said: str) -> bytes:
        return policies_pb2.WatchPoliciesResponse(bundle=said).SerializeToString()
