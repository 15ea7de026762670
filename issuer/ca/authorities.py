# SPDX-License-Identifier: Apache-2.0
"""The issuer's authorities: what signs now, what comes next, and what is published.

A change of the slots, its journal and the bundle are one transaction: nothing is ever signed by a key
that is not in the bundle, and after a crash journal and bundle agree.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import NameOID

from issuer.ca import der
from issuer.ca.crl import Revoked
from issuer.ca.profile import BACKDATE, new_serial
from issuer.ca.published import lasting_certificates, lasting_keys
from issuer.ca.signing import JwtSigner, WitSigner, X509Signer, signature_algorithm
from issuer.ca.slots import Slots, is_premature
from issuer.errors import AuthorityNotReadyError, IssuerError
from issuer.keys import Key, KeyManager, KeyManagerError, KeyNotFoundError
from issuer.model import AuthorityKind, AuthorityRecord, AuthorityState
from issuer.store import Database, Transaction
from spiffekit.bundle import Bundle, JwtAuthority, X509Authority
from spiffekit.daemon.clock import Clock
from spiffekit.id import TrustDomain
from spiffekit.keys import KeyType, public_key_to_der, subject_key_id

logger = logging.getLogger(__name__)

# An authority stays published so long after its end, for verifiers whose clock is behind; one lifetime at
# most, or short-lived ones would fill the bundle.
EXPIRED_GRACE: Final = timedelta(hours=24)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorityPolicy:
    """How authorities are made."""

    ca_ttl: timedelta = timedelta(hours=24)
    ca_key_type: KeyType = KeyType.EC_P256
    jwt_key_type: KeyType = KeyType.EC_P256
    jwt_issuer: str = ""
    wit: bool = False  # WIT-SVIDs, which the standard is still working at
    refresh_hint: timedelta | None = None


class Authorities:
    """The authorities of one trust domain, of all kinds. Call `load` first."""

    def __init__(
        self,
        trust_domain: TrustDomain,
        policy: AuthorityPolicy,
        *,
        keys: KeyManager,
        database: Database,
        clock: Clock,
    ) -> None:
        self._trust_domain = trust_domain
        self._policy = policy
        self._keys = keys
        self._database = database
        self._clock = clock
        self.kinds = tuple(kind for kind in AuthorityKind if policy.wit or kind is not AuthorityKind.WIT)
        self._slots = {kind: Slots() for kind in AuthorityKind}
        self._changing = asyncio.Lock()
        self._x509: X509Signer | None = None
        self._jwt: JwtSigner | None = None
        self._wit: WitSigner | None = None

    def slots(self, kind: AuthorityKind) -> Slots:
        """Return the authorities of a kind."""
        return self._slots[kind]

    @property
    def x509(self) -> X509Signer:
        """What signs X.509-SVIDs now."""
        if self._x509 is None:
            raise AuthorityNotReadyError("no X.509 authority is active yet")
        return self._x509

    @property
    def jwt(self) -> JwtSigner:
        """What signs JWT-SVIDs now."""
        if self._jwt is None:
            raise AuthorityNotReadyError("no JWT authority is active yet")
        return self._jwt

    @property
    def wit(self) -> WitSigner:
        """What signs WIT-SVIDs now."""
        if self._wit is None:
            raise AuthorityNotReadyError("no WIT authority is active yet")
        return self._wit

    async def revocation_lists(
        self, revoked: Sequence[Revoked], *, number: int, lifetime: timedelta
    ) -> tuple[bytes, ...]:
        """Return a list, DER, of each X.509 authority whose certificates may still be valid."""
        now = self._clock.now()
        lists = []
        for record in self._slots[AuthorityKind.X509].records:
            key = None
            if record.state is not AuthorityState.PREPARED and now < record.not_after:
                key = await self._key_of(record)
            if key is not None:
                signer = X509Signer(record, key)
                lists.append(await signer.sign_crl(revoked, number=number, now=now, lifetime=lifetime))
        return tuple(lists)

    async def load(self) -> None:
        """Take up the journal; an active authority that has ended or whose key is gone is replaced.

        Authorities of a kind that is switched off are withdrawn: nobody would rotate them.

        Raises:
            KeyManagerError: A key is there and cannot be read: an operator has to look at it.
        """
        for kind in AuthorityKind:
            records = await self._database.read(lambda tx, kind=kind: tx.authorities.all(kind))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            self._slots[kind] = Slots.of(records)
        for kind in AuthorityKind:
            if kind in self.kinds:
                await self._take_up(kind, self._slots[kind])
            else:
                await self._change(kind, lambda _: Slots())

    async def _take_up(self, kind: AuthorityKind, slots: Slots) -> None:
        active, prepared = slots.active, slots.prepared
        if active is not None:
            key = await self._key_of(active)
            if key is not None and self._clock.now() < active.not_after:
                self._use(kind, active, key)
                return
            logger.warning(
                "active authority cannot sign, replacing it", extra={"kind": kind, "id": active.id}
            )
        if prepared is None or not await self.can_sign(prepared):
            prepared = await self.prepare(kind)
        await self.activate(kind, prepared.id)

    async def can_sign(self, record: AuthorityRecord) -> bool:
        """Tell whether an authority could sign now: it is valid, and its key is there."""
        now = self._clock.now()
        if is_premature(record, now) or now >= record.not_after:
            return False
        try:
            return await self._key_of(record) is not None
        except KeyManagerError as error:
            logger.warning("key of an authority cannot be used", extra={"id": record.id, "error": str(error)})
            return False

    async def _key_of(self, record: AuthorityRecord) -> Key | None:
        try:
            key = await self._keys.get(record.key_id)
        except KeyNotFoundError:
            return None
        return key if public_key_to_der(key.public_key) == record.public_key_der else None

    async def prepare(self, kind: AuthorityKind) -> AuthorityRecord:
        """Make the next authority and publish it; it signs nothing yet. Another prepared one gives way."""
        now = self._clock.now().replace(microsecond=0)
        key_id = f"{kind}-{secrets.token_hex(8)}"
        key_type = self._policy.ca_key_type if kind is AuthorityKind.X509 else self._policy.jwt_key_type
        try:
            key = await self._keys.generate(key_id, key_type)
            record = await self._record(kind, key, now)
            await self._change(kind, lambda slots: slots.with_prepared(record))
        except IssuerError:
            await self._forget(key_id)  # else each attempt on a full disk would leave a key behind
            raise
        logger.info(
            "authority prepared", extra={"kind": kind, "id": record.id, "not_after": record.not_after}
        )
        return record

    async def activate(self, kind: AuthorityKind, authority_id: str) -> AuthorityRecord:
        """Let the prepared authority sign from now on."""
        key = await self._keys.get(self._slots[kind].find(authority_id).key_id)
        after = await self._change(kind, lambda slots: slots.activate(authority_id))
        record = after.find(authority_id)
        self._use(kind, record, key)
        logger.info("authority activated", extra={"kind": kind, "id": record.id})
        return record

    async def taint(self, kind: AuthorityKind, authority_id: str) -> AuthorityRecord:
        """Mark an old authority, so that every attestor replaces what it signed."""
        after = await self._change(kind, lambda slots: slots.taint(authority_id))
        return after.find(authority_id)

    async def revoke(self, kind: AuthorityKind, authority_id: str) -> AuthorityRecord:
        """Withdraw a tainted authority from the bundle, and forget its key."""
        record = self._slots[kind].find(authority_id)
        await self._change(kind, lambda slots: slots.revoke(authority_id))
        return record

    async def prune(self) -> None:
        """Withdraw authorities that ended long ago, those that others added as well, and forget our keys."""
        now = self._clock.now()
        for kind in self.kinds:
            await self._change(kind, lambda slots: slots.without_expired(now, self._grace))
        async with self._changing:
            published = await self._database.read(lambda tx: tx.bundles.get(self._trust_domain))
            if not self._bundle(self._slots, published).same_content(published):
                await self._database.write(lambda tx: self._publish(tx, self._slots))
                logger.info("authorities that others added have ended, and are withdrawn")

    @property
    def _grace(self) -> timedelta:
        return min(EXPIRED_GRACE, self._policy.ca_ttl)

    async def _forget(self, key_id: str) -> None:
        """Delete the key of an authority that is not in the journal, or no longer."""
        try:
            await self._keys.delete(key_id)
        except KeyManagerError as error:
            logger.warning("key stays behind", extra={"key": key_id, "error": str(error)})

    async def _change(self, kind: AuthorityKind, step: Callable[[Slots], Slots]) -> Slots:
        """Take a step, keep and publish what comes of it, and forget the keys of what is gone."""
        async with self._changing:
            before, after = self._slots[kind], step(self._slots[kind])
            if after == before:
                return after
            slots = {**self._slots, kind: after}
            await self._database.write(lambda tx: self._save(tx, kind, slots))
            self._slots = slots
        kept = {record.id for record in after.records}
        for record in before.records:
            if record.id not in kept:
                logger.info("authority withdrawn", extra={"kind": kind, "id": record.id})
                await self._forget(record.key_id)
        return after

    def _save(self, tx: Transaction, kind: AuthorityKind, slots: dict[AuthorityKind, Slots]) -> None:
        journal = {record.id: record for record in tx.authorities.all(kind)}
        for record in slots[kind].records:
            if journal.pop(record.id, None) != record:
                tx.authorities.save(record)
        for authority_id in journal:
            tx.authorities.delete(kind, authority_id)
        self._publish(tx, slots)

    def _publish(self, tx: Transaction, slots: dict[AuthorityKind, Slots]) -> None:
        tx.bundles.put(self._bundle(slots, tx.bundles.find(self._trust_domain)))

    def _bundle(self, slots: dict[AuthorityKind, Slots], published: Bundle | None) -> Bundle:
        """Return the bundle that these slots publish, with what others added to it and has not ended."""
        known = [record for kind in slots.values() for record in kind.records]
        x509_authorities = [
            X509Authority(r.certificate_der, r.tainted) for r in known if r.kind is AuthorityKind.X509
        ]
        jwt_authorities, wit_authorities = (
            [JwtAuthority(r.id, r.public_key_der, r.not_after, r.tainted) for r in known if r.kind is kind]
            for kind in (AuthorityKind.JWT, AuthorityKind.WIT)
        )
        if published is not None:
            ours = [*known, *(record for before in self._slots.values() for record in before.records)]
            certificates = {r.certificate_der for r in ours if r.kind is AuthorityKind.X509}
            kids = {r.id for r in ours if r.kind is not AuthorityKind.X509}
            ended = self._clock.now() - self._grace
            x509_authorities += lasting_certificates(published.x509_authorities, certificates, ended)
            jwt_authorities += lasting_keys(published.jwt_authorities, kids, ended)
            if AuthorityKind.WIT in self.kinds:
                wit_authorities += lasting_keys(published.wit_authorities, kids, ended)
        hint = self._policy.refresh_hint or self._policy.ca_ttl / 10
        return Bundle(
            self._trust_domain,
            tuple(x509_authorities),
            tuple(jwt_authorities),
            refresh_hint=timedelta(seconds=max(int(hint.total_seconds()), 1)),  # bundles carry whole seconds
            wit_authorities=tuple(wit_authorities),
        )

    def _use(self, kind: AuthorityKind, record: AuthorityRecord, key: Key) -> None:
        match kind:
            case AuthorityKind.X509:
                self._x509 = X509Signer(record, key)
            case AuthorityKind.JWT:
                issuer = self._policy.jwt_issuer
                self._jwt = JwtSigner(record, key, trust_domain=self._trust_domain, issuer=issuer)
            case AuthorityKind.WIT:  # pragma: no branch - the last kind there is, mypy checks
                self._wit = WitSigner(record, key, trust_domain=self._trust_domain)

    async def _record(self, kind: AuthorityKind, key: Key, now: datetime) -> AuthorityRecord:
        if kind is AuthorityKind.X509:
            return await self._self_signed(key, now)
        return AuthorityRecord(
            id=secrets.token_urlsafe(24),
            kind=kind,
            state=AuthorityState.PREPARED,
            key_id=key.id,
            issued_at=now,
            not_after=now + self._policy.ca_ttl,
            public_key_der=public_key_to_der(key.public_key),
        )

    async def _self_signed(self, key: Key, now: datetime) -> AuthorityRecord:
        """Return the record of a new self-signed authority (X509-SVID §3.2)."""
        serial = new_serial(now)
        not_after = now + self._policy.ca_ttl
        identifier = subject_key_id(key.public_key)
        tbs = _authority_tbs(self._trust_domain, key, serial=serial, now=now, not_after=not_after)
        algorithm = signature_algorithm(key.public_key)
        certificate = der.sequence(tbs, algorithm, der.bit_string(await key.sign(tbs)))
        made = x509.load_der_x509_certificate(certificate)
        try:
            made.verify_directly_issued_by(made)  # once for each key: a signer that errs is found here
        except InvalidSignature as error:
            raise KeyManagerError(f"key {key.id!r}: its signature does not fit its public half") from error
        return AuthorityRecord(
            id=identifier.hex(),
            kind=AuthorityKind.X509,
            state=AuthorityState.PREPARED,
            key_id=key.id,
            issued_at=now,
            not_after=not_after,
            certificate_der=certificate,
            public_key_der=public_key_to_der(key.public_key),
        )


def authority_subject(serial: int) -> x509.Name:
    """Return the subject of an authority; its serial number makes it one of a kind."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "US"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "SPIFFE"),
            x509.NameAttribute(NameOID.SERIAL_NUMBER, str(serial)),
        ]
    )


def _authority_tbs(
    trust_domain: TrustDomain, key: Key, *, serial: int, now: datetime, not_after: datetime
) -> bytes:
    name = authority_subject(serial).public_bytes()
    identifier = der.octet_string(subject_key_id(key.public_key))
    uri = der.tlv(0x86, str(trust_domain.id).encode("ascii"))
    extensions = [
        (b"\x06\x03\x55\x1d\x0f", True, der.bit_string(b"\x06", 1)),  # keyCertSign, cRLSign
        (b"\x06\x03\x55\x1d\x13", True, der.sequence(der.TRUE)),  # cA
        (b"\x06\x03\x55\x1d\x0e", False, identifier),  # subject key identifier
        (b"\x06\x03\x55\x1d\x11", False, der.sequence(uri)),  # subject alternative name
    ]
    return der.sequence(
        b"\xa0\x03\x02\x01\x02",
        der.integer(serial),
        signature_algorithm(key.public_key),
        name,
        der.sequence(der.time(now - BACKDATE), der.time(not_after)),
        name,
        public_key_to_der(key.public_key),
        der.tlv(
            0xA3,
            der.sequence(
                *(der.sequence(o, der.TRUE if c else b"", der.octet_string(v)) for o, c, v in extensions)
            ),
        ),
    )
