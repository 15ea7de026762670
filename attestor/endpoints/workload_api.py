# SPDX-License-Identifier: Apache-2.0
"""The SPIFFE Workload API. The caller is whom the kernel says; nothing that it sends names it.

A stream ends with PERMISSION_DENIED when nothing is granted and with UNAVAILABLE when we cannot say;
never with an empty answer, nor with a status that makes a client give up for a reason of ours.
"""

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from datetime import timedelta
from functools import partial
from typing import Any, Final

import grpc
from google.protobuf.message import Message

from attestor.cache import Cache, Entry, Watcher, WorkloadUpdate
from attestor.endpoints.admission import Admission, CallRefused, Context, require_header
from attestor.endpoints.answers import Answer, Answers
from attestor.endpoints.caller import Caller
from attestor.endpoints.refusals import Refusals
from attestor.endpoints.wit import WitProfile, wanted_of
from attestor.errors import AttestorError, NodeAttestationError, NoIdentityError
from attestor.instances import Instances, evidence_of
from attestor.jwt import JwtCache
from attestor.reports import Handed, Reports
from attestor.workload.examination import Examiner
from spiffekit import jwtsvid
from spiffekit.bundle import Bundle, BundleSet
from spiffekit.daemon.clock import Clock, first_of
from spiffekit.errors import SpiffeError
from spiffekit.evidence import Evidence
from spiffekit.id import TrustDomain
from spiffekit.jwtsvid import JwtSvid
from spiffekit.wire.status import abort
from spiffekit.wire.workload_api import SERVICE, Method, messages, methods
from spiffekit.x509svid import X509Svid

logger = logging.getLogger(__name__)

Code = grpc.StatusCode
Rendered = tuple[str, tuple[str, ...], tuple[TrustDomain, ...]]
"""What an answer depends on within one version of the cache: its kind, entries and federated bundles."""

MAX_AUDIENCES: Final = 50  # of one token; like the next, as much as our issuer takes
MAX_AUDIENCE_BYTES: Final = 2048
_ALWAYS: Final = ("sub", "exp", "aud")  # claims of another trust domain's token that mean something here


class WorkloadApi:
    """See the module."""

    def __init__(  # noqa: PLR0913 - what it works with
        self,
        cache: Cache,
        examiner: Examiner,
        jwt: JwtCache,
        instances: Instances,
        *,
        admission: Admission,
        refusals: Refusals,
        reports: Reports,
        clock: Clock,
        foreign_claims: Sequence[str] = (),
        unauthenticated_verifiers: bool = False,
        wit: WitProfile | None = None,
    ) -> None:
        self._cache = cache
        self._examiner = examiner
        self._jwt = jwt
        self._instances = instances
        self._admission = admission
        self._refusals = refusals
        self._reports = reports
        self._clock = clock
        self._foreign_claims = frozenset((*_ALWAYS, *foreign_claims))
        self._unauthenticated_verifiers = unauthenticated_verifiers
        self._wit = wit
        self._rendered: dict[Rendered, bytes] = {}
        self._rendered_version = -1
        self._messages: Mapping[str, Any] = messages()

    def handler(self) -> grpc.GenericRpcHandler:
        """Return the gRPC handler of the service; methods that we do not serve answer UNIMPLEMENTED."""
        streams: dict[str, Callable[[Any], Answers]] = {
            "FetchX509SVID": lambda _: Answers(self._x509_answer, self._x509_due),
            "FetchX509Bundles": lambda _: Answers(partial(self._bundles_answer, self._x509_bundles)),
            "FetchJWTBundles": lambda _: Answers(partial(self._bundles_answer, self._jwt_bundles)),
        }
        if self._wit is not None:
            streams["FetchWITSVID"] = self._wit.answers
            streams["FetchWITBundles"] = lambda _: Answers(partial(self._bundles_answer, self._wit_bundles))
        unary = {"FetchJWTSVID": self._fetch_jwt_svid, "ValidateJWTSVID": self._validate_jwt_svid}
        handlers = {}
        for name, method in methods().items():
            if name in unary:
                handlers[name] = _unary_handler(method, self._answering(unary[name]))
            else:
                handlers[name] = _stream_handler(method, self._streaming(streams.get(name)))
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    def _answering(self, behave: Callable[..., Any]) -> Callable[..., Any]:
        async def handle(request: Message, context: Context) -> Any:
            caller: Caller | None = None
            try:
                caller = self._admit(context)
                await caller.examine()
                return await behave(request, caller)
            except Exception as error:  # noqa: BLE001 - the RPC boundary: every error becomes a status
                await self._refuse(context, caller, error)

        return handle

    def _streaming(self, answers: Callable[[Any], Answers] | None) -> Callable[..., Any]:
        async def handle(request: Message, context: Context) -> AsyncIterator[bytes]:
            caller: Caller | None = None
            try:
                if answers is None:
                    require_header(context)
                    raise CallRefused(
                        Code.UNIMPLEMENTED, "the WIT profile is not supported", reason="unimplemented"
                    )
                caller = self._admit(context)
                await caller.examine()
                with self._admission.streaming(caller.process):
                    async with aclosing(self._follow(caller, answers(request))) as followed:
                        async for message in followed:
                            yield message
            except Exception as error:  # noqa: BLE001 - the RPC boundary: every error becomes a status
                await self._refuse(context, caller, error)

        return handle

    def _admit(self, context: Context) -> Caller:
        return Caller(self._admission.admit(context), self._examiner, self._cache)

    async def _refuse(self, context: Context, caller: Caller | None, error: Exception) -> None:
        """End a call with the status of an error, and a number by which an operator finds the reason."""
        await abort(context, self._refusals.told(caller, self._admission.refuse(error), error))

    async def _follow(self, caller: Caller, answers: Answers) -> AsyncGenerator[bytes, None]:
        """Yield the whole state at first and after each change of it, while the caller is who it was."""
        last = b""
        examined = True
        with self._cache.watching() as watcher, caller.on_death(watcher.wake):
            while True:
                if caller.awaits_more() or (not examined and caller.executes_another()):
                    await caller.examine()
                    examined = True
                message, handed = await answers.answer(caller)
                if message not in (b"", last):
                    # Whoever gets something is looked at again first, and after it was waited for.
                    if not examined or caller.executes_another():
                        await caller.examine()
                        examined = True
                        continue
                    caller.process.require_alive()
                    self._reports.handed(caller.process, caller.examination, handed)
                    yield message
                    last = message
                await self._change(watcher, answers.due(caller))
                caller.process.require_alive()
                examined = False

    async def _change(self, watcher: Watcher, due: float | None) -> None:
        """Wait until something may have changed for the caller, or an SVID of its own is to be renewed."""
        if due is None:
            await watcher.wait()
        else:
            # One more, for a timedelta counts in them: rounded down it would be over before it is due.
            left = timedelta(seconds=due - self._clock.monotonic(), microseconds=1)
            await first_of(watcher.wait(), self._clock.sleep(left))

    def _x509_due(self, caller: Caller) -> float | None:
        if not any(entry.needs_evidence for entry in caller.entries):
            return None
        return self._instances.of(caller.process, caller.examination).due()

    async def _bundles_answer(self, render: Callable[[WorkloadUpdate], Message], caller: Caller) -> Answer:
        entries = caller.entries
        if not entries and not self._unauthenticated_verifiers:
            raise NoIdentityError("no identity issued")
        return Answer(self._serialised(WorkloadUpdate((), *self._cache.bundles_for(entries)), render))

    async def _x509_answer(self, caller: Caller) -> Answer:
        """Return what the caller is entitled to, or nothing while an SVID of it is still being issued."""
        own = [entry for entry in caller.entries if entry.needs_evidence]
        if not own:
            update = self._cache.update(caller.selectors)
            if update is None:
                return Answer()
            return Answer(self._serialised(update, self._x509_svids), _handed(update))
        instance = self._instances.of(caller.process, caller.examination)
        await self._instances.ensure(instance, caller.process, caller.examination, own)
        update = self._cache.update(caller.selectors, instance.svids())
        if update is None:
            return Answer()
        # Not kept for others: these keys are of this process alone.
        message = self._x509_svids(update).SerializeToString(deterministic=True)
        return Answer(message, _handed(update, instance.uid))

    def _serialised(self, update: WorkloadUpdate, render: Callable[[WorkloadUpdate], Message]) -> bytes:
        """Return the answer as bytes; workloads with the same shared entries share them."""
        if self._rendered_version != self._cache.version:
            self._rendered_version = self._cache.version
            self._rendered = {}
        key = (
            render.__name__,
            tuple(identity.entry.id for identity in update.identities),
            tuple(bundle.trust_domain for bundle in update.federated),
        )
        message = self._rendered.get(key)
        if message is None:
            message = self._rendered[key] = render(update).SerializeToString(deterministic=True)
        return message

    def _x509_svids(self, update: WorkloadUpdate) -> Message:
        kind = self._messages["X509SVID"]
        bundle = update.bundle.x509_der()
        response: Message = self._messages["X509SVIDResponse"](
            svids=[
                kind(
                    spiffe_id=str(identity.svid.spiffe_id),
                    x509_svid=b"".join(identity.svid.chain_der),
                    x509_svid_key=identity.svid.private_key_der,
                    bundle=bundle,
                    hint=identity.entry.hint,
                )
                for identity in update.identities
            ],
            # A trust domain without roots stays out: a client of the field dies of an empty one.
            federated_bundles={_key(b): b.x509_der() for b in update.federated if b.x509_authorities},
            crl=self._cache.taken_back.crls,
        )
        return response

    def _x509_bundles(self, update: WorkloadUpdate) -> Message:
        bundles = [b for b in (update.bundle, *update.federated) if b.x509_authorities]
        response: Message = self._messages["X509BundlesResponse"](
            bundles={_key(b): b.x509_der() for b in bundles}, crl=self._cache.taken_back.crls
        )
        return response

    def _jwt_bundles(self, update: WorkloadUpdate) -> Message:
        bundles = (update.bundle, *update.federated)
        response: Message = self._messages["JWTBundlesResponse"](
            bundles={_key(b): b.to_jwt_jwks() for b in bundles}
        )
        return response

    def _wit_bundles(self, update: WorkloadUpdate) -> Message:
        bundles = (update.bundle, *update.federated)
        response: Message = self._messages["WITBundlesResponse"](
            bundles={_key(b): b.to_wit_jwks().decode("ascii") for b in bundles}
        )
        return response

    async def _fetch_jwt_svid(self, request: Any, caller: Caller) -> Message:
        audience = [name for name in request.audience if name]
        if not audience:
            raise CallRefused(Code.INVALID_ARGUMENT, "audience must be specified")
        if len(audience) > MAX_AUDIENCES:
            raise CallRefused(Code.INVALID_ARGUMENT, f"more than {MAX_AUDIENCES} audiences")
        if any(len(name.encode()) > MAX_AUDIENCE_BYTES for name in audience):
            raise CallRefused(Code.INVALID_ARGUMENT, f"audience is longer than {MAX_AUDIENCE_BYTES} bytes")
        entries = wanted_of(caller.entries, request.spiffe_id)
        handed = [token for entry in entries if (token := await self._token(entry, audience, caller))]
        caller.process.require_alive()
        if not handed or caller.executes_another():
            raise NoIdentityError("no identity issued")
        self._reports.handed(caller.process, caller.examination, handed)
        kind = self._messages["JWTSVID"]
        response: Message = self._messages["JWTSVIDResponse"](
            svids=[kind(spiffe_id=str(s.spiffe_id), svid=s.token, hint=s.hint) for _, s, _ in handed]
        )
        return response

    async def _token(self, entry: Entry, audience: Sequence[str], caller: Caller) -> Handed[JwtSvid] | None:
        """Return a token for an entry, or None if the issuer refuses one."""
        evidence = self._evidence(entry, caller)
        try:
            svid = await self._jwt.fetch(entry, audience, evidence)
        except NodeAttestationError as error:  # the issuer does not believe the evidence
            logger.warning("JWT-SVID refused", extra={"entry": entry.id, "reason": str(error)})
            return None
        except AttestorError as error:
            logger.warning("JWT-SVID not issued", extra={"entry": entry.id, "reason": str(error)})
            raise CallRefused(Code.UNAVAILABLE, "could not fetch JWT-SVID", reason="not_ready") from error
        return Handed(entry, svid, evidence.instance_uid if evidence is not None else "")

    def _evidence(self, entry: Entry, caller: Caller) -> Evidence | None:
        if not entry.needs_evidence:
            return None
        instance = self._instances.of(caller.process, caller.examination)
        return evidence_of(instance.uid, caller.process, caller.examination)

    async def _validate_jwt_svid(self, request: Any, caller: Caller) -> Message:
        if not request.audience:
            raise CallRefused(Code.INVALID_ARGUMENT, "audience must be specified")
        if not request.svid:
            raise CallRefused(Code.INVALID_ARGUMENT, "svid must be specified")
        # Without an identity our own trust domain's tokens may be judged still: the verdict reveals nothing.
        own, federated = self._cache.bundles_for(caller.entries)
        try:
            svid = jwtsvid.verify(
                request.svid,
                BundleSet((own, *federated)),
                audience=[request.audience],
                now=self._clock.now(),
            )
            self._cache.taken_back.check(svid)
        except SpiffeError as error:
            raise CallRefused(Code.INVALID_ARGUMENT, str(error), reason="invalid_token") from error
        claims: dict[str, Any] = {**svid.claims, "aud": list(svid.audience)}
        if not svid.spiffe_id.is_member_of(self._cache.trust_domain):
            claims = {name: value for name, value in claims.items() if name in self._foreign_claims}
        response = self._messages["ValidateJWTSVIDResponse"](spiffe_id=str(svid.spiffe_id))
        try:
            response.claims.update(claims)
        except (ValueError, OverflowError) as error:
            message = "token has a claim that cannot be passed on"
            raise CallRefused(Code.INVALID_ARGUMENT, message) from error
        answer: Message = response
        return answer


def _handed(update: WorkloadUpdate, instance_uid: str = "") -> list[Handed[X509Svid]]:
    """Return the SVIDs of an answer; the instance is told of those that are of this process alone."""
    return [
        Handed(one.entry, one.svid, instance_uid if one.entry.needs_evidence else "")
        for one in update.identities
    ]


def _key(bundle: Bundle) -> str:
    return str(bundle.trust_domain.id)


def _unary_handler(method: Method, behave: Callable[..., Any]) -> Any:
    return grpc.unary_unary_rpc_method_handler(
        behave, method.request.FromString, lambda message: message.SerializeToString()
    )


def _stream_handler(method: Method, behave: Callable[..., Any]) -> Any:
    return grpc.unary_stream_rpc_method_handler(behave, method.request.FromString, bytes)
