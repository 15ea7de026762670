# SPDX-License-Identifier: Apache-2.0
"""The WIT profile of the Workload API (Workload_API §7.2): WIT-SVIDs with their keys, where these may go out.

The standard hands out the private key with the SVID. A workload that is given it can lose it, so that is off
unless configured; `attestor.v1.Signer` proves for workloads that hold none.
"""

from functools import partial
from typing import Any

import grpc

from attestor.cache import Entry
from attestor.endpoints.admission import CallRefused
from attestor.endpoints.answers import Answer, Answers
from attestor.endpoints.caller import Caller
from attestor.errors import NoIdentityError
from attestor.instances import Instances
from attestor.reports import Handed
from attestor.wit import WitSvids
from spiffekit.errors import SpiffeIdError
from spiffekit.id import SpiffeId
from spiffekit.jwk import from_private_key, to_json
from spiffekit.wire.workload_api import messages

Code = grpc.StatusCode


class WitProfile:
    """See the module."""

    def __init__(self, instances: Instances, wit: WitSvids, *, export: bool = False) -> None:
        self._instances = instances
        self._wit = wit
        self._export = export
        self._messages = messages()

    def answers(self, request: Any) -> Answers:
        """Return what FetchWITSVID says to a request."""
        return Answers(partial(self._answer, request.spiffe_id), self._due)

    async def _answer(self, wanted: str, caller: Caller) -> Answer:
        entries = wanted_of(caller.entries, wanted)
        if not self._export:
            message = "keys are not handed out; use attestor.v1.Signer"
            raise CallRefused(Code.PERMISSION_DENIED, message, reason="not_exported")
        instance = self._instances.of(caller.process, caller.examination)
        mine = await self._wit.ensure(instance, caller.process, caller.examination, caller.entries)
        handed = [
            Handed(entry, mine.held[entry.id].svid, instance.uid)
            for entry in entries
            if entry.id in mine.held
        ]
        if not handed:
            raise NoIdentityError("no identity issued")
        kind = self._messages["WITSVID"]
        key = to_json({**from_private_key(mine.key), "alg": "ES256"}).decode("ascii")
        response = self._messages["WITSVIDResponse"](
            svids=[
                kind(spiffe_id=str(s.spiffe_id), wit_svid=s.token, wit_svid_key=key, hint=s.hint)
                for _, s, _ in handed
            ]
        )
        return Answer(response.SerializeToString(deterministic=True), handed)

    def _due(self, caller: Caller) -> float | None:
        mine = self._instances.of(caller.process, caller.examination).key
        return None if mine is None else mine.due()


def wanted_of(entries: tuple[Entry, ...], spiffe_id: str) -> tuple[Entry, ...]:
    """Return those of the caller's entries that give the ID that it asks for; all for "".

    Raises:
        CallRefused: It is no ID.
        NoIdentityError: There is none.
    """
    if spiffe_id:
        try:
            wanted = SpiffeId.parse(spiffe_id)
        except SpiffeIdError as error:
            raise CallRefused(Code.INVALID_ARGUMENT, f"invalid requested SPIFFE ID: {error}") from error
        entries = tuple(entry for entry in entries if entry.spiffe_id == wanted)
    if not entries:
        raise NoIdentityError("no identity issued")
    return entries
