# SPDX-License-Identifier: Apache-2.0
"""The issuer's authorities: what signs now, what comes next, and what is published.

A change of the slots, its journal and the bundle are one transaction: nothing is ever signed by a key
that is not in the bundle, and after a crash journal and bundle agree.
"""

import logging
import secrets
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from issuer.ca import der
from issuer.ca.profile import BACKDATE, new_serial
from issuer.ca.signing import JwtSigner, X509Signer, key_kind
from issuer.ca.slots import Slots
from issuer.errors import AuthorityNotReadyError
from issuer.keys import Key, KeyManager, KeyNotFoundError
from issuer.model import AuthorityKind, AuthorityRecord, AuthorityState
from issuer.store import Database, Transaction
from spiffekit.bundle import Bundle, JwtAuthority, X509Authority
from spiffekit.daemon.clock import Clock
from spiffekit.id import TrustDomain
from spiffekit.keys import KeyType, public_key_to_der, subject_key_id

logger = logging.getLogger(__name__)

EXPIRED_GRACE: Final = timedelta(hours=24)  # an authority stays published so long after its end
JWT_LIFETIME_FACTOR: Final = 1  # of the X.509 authorities' lifetime

_ALGORITHM: Final = {
    "secp256r1": "1.2.840.10045.4.3.2",
    "secp384r1": "1.2.840.10045.4.3.3",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorityPolicy:
    """How authorities are made."""

    ca_ttl: timedelta = timedelta(hours=24)
    ca_key_type: KeyType = KeyType.EC_P256
    jwt_key_type: KeyType = KeyType.EC_P256
    jwt_issuer: str = ""
    refresh_hint: timedelta | None = None


class Authorities:
    """Both kinds of authorities of one trust domain. Call `load` first."""

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
        self._slots = {kind: Slots() for kind in AuthorityKind}
        self._x509: X509Signer | None = None
        self._jwt: JwtSigner | None = None

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

    async def load(self) -> None:
        """Take up the journal; an active authority that has ended or whose key is gone is replaced."""
        now = self._clock.now()
        for kind in AuthorityKind:
            records = await self._database.read(lambda tx, kind=kind: tx.authorities.all(kind))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            slots = Slots.of(records)
            active = slots.active
            if (
                active is not None
                and now < active.not_after
                and (key := await self._key_of(active)) is not None
            ):
                self._slots[kind] = slots
                self._use(kind, active, key)
                continue
            if active is not None:
                logger.warning(
                    "active authority cannot sign, replacing it", extra={"kind": kind, "id": active.id}
                )
                old = replace(active, state=AuthorityState.OLD)
                slots = Slots(tuple(old if record is active else record for record in slots.records))
            self._slots[kind] = slots
            prepared = await self.prepare(kind)
            await self.activate(kind, prepared.id)

    async def _key_of(self, record: AuthorityRecord) -> Key | None:
        try:
            key = await self._keys.get(record.key_id)
        except KeyNotFoundError:
            return None
        return key if public_key_to_der(key.public_key) == record.public_key_der else None

    async def prepare(self, kind: AuthorityKind) -> AuthorityRecord:
        """Make the next authority and publish it; it signs nothing yet."""
        now = self._clock.now().replace(microsecond=0)
        key_id = f"{kind}-{secrets.token_hex(8)}"
        if kind is AuthorityKind.X509:
            key = await self._keys.generate(key_id, self._policy.ca_key_type)
            record = await self._self_signed(key, now)
        else:
            key = await self._keys.generate(key_id, self._policy.jwt_key_type)
            record = AuthorityRecord(
                id=secrets.token_urlsafe(24),
                kind=kind,
                state=AuthorityState.PREPARED,
                key_id=key.id,
                issued_at=now,
                not_after=now + self._policy.ca_ttl * JWT_LIFETIME_FACTOR,
                public_key_der=public_key_to_der(key.public_key),
            )
        await self._change(kind, self._slots[kind].with_prepared(record))
        logger.info(
            "authority prepared", extra={"kind": kind, "id": record.id, "not_after": record.not_after}
        )
        return record

    async def activate(self, kind: AuthorityKind, authority_id: str) -> AuthorityRecord:
        """Let the prepared authority sign from now on."""
        slots = self._slots[kind].activate(authority_id)
        record = slots.find(authority_id)
        key = await self._keys.get(record.key_id)
        await self._change(kind, slots)
        self._use(kind, record, key)
        logger.info("authority activated", extra={"kind": kind, "id": record.id})
        return record

    async def taint(self, kind: AuthorityKind, authority_id: str) -> AuthorityRecord:
        """Mark an old authority, so that every attestor replaces what it signed."""
        await self._change(kind, self._slots[kind].taint(authority_id))
        return self._slots[kind].find(authority_id)

    async def revoke(self, kind: AuthorityKind, authority_id: str) -> AuthorityRecord:
        """Withdraw a tainted authority from the bundle, and forget its key."""
        record = self._slots[kind].find(authority_id)
        await self._change(kind, self._slots[kind].revoke(authority_id))
        await self._keys.delete(record.key_id)
        return record

    async def prune(self) -> None:
        """Withdraw authorities that ended a day ago, and forget their keys."""
        for kind, before in self._slots.items():
            after = before.without_expired(self._clock.now(), EXPIRED_GRACE)
            if after == before:
                continue
            await self._change(kind, after)
            for gone in set(before.records) - set(after.records):
                await self._keys.delete(gone.key_id)
                logger.info("expired authority pruned", extra={"kind": kind, "id": gone.id})

    async def _change(self, kind: AuthorityKind, after: Slots) -> None:
        before = {record.id: record for record in self._slots[kind].records}
        slots = {**self._slots, kind: after}

        def act(tx: Transaction) -> None:
            for record in after.records:
                if before.get(record.id) != record:
                    tx.authorities.save(record)
            for gone in before.keys() - {record.id for record in after.records}:
                tx.authorities.delete(kind, gone)
            tx.bundles.put(self._bundle(slots, tx.bundles.find(self._trust_domain)))

        await self._database.write(act)
        self._slots = slots

    def _bundle(self, slots: dict[AuthorityKind, Slots], published: Bundle | None) -> Bundle:
        """Return the bundle that these slots publish, with what others added to it by `AppendBundle`."""
        known = [record for kind in slots.values() for record in kind.records]
        ours = {record.certificate_der for before in self._slots.values() for record in before.records}
        our_kids = {record.id for before in self._slots.values() for record in before.records}
        x509_authorities = [
            X509Authority(r.certificate_der, r.tainted) for r in known if r.kind is AuthorityKind.X509
        ]
        jwt_authorities = [
            JwtAuthority(r.id, r.public_key_der, r.not_after, r.tainted)
            for r in known
            if r.kind is AuthorityKind.JWT
        ]
        if published is not None:
            mine = ours | {authority.certificate_der for authority in x509_authorities}
            kids = our_kids | {authority.key_id for authority in jwt_authorities}
            x509_authorities += [a for a in published.x509_authorities if a.certificate_der not in mine]
            jwt_authorities += [a for a in published.jwt_authorities if a.key_id not in kids]
        return Bundle(
            self._trust_domain,
            tuple(x509_authorities),
            tuple(jwt_authorities),
            refresh_hint=self._policy.refresh_hint or max(self._policy.ca_ttl / 10, timedelta(seconds=1)),
        )

    def _use(self, kind: AuthorityKind, record: AuthorityRecord, key: Key) -> None:
        match kind:
            case AuthorityKind.X509:
                self._x509 = X509Signer(record, key)
            case AuthorityKind.JWT:
                self._jwt = JwtSigner(
                    record, key, trust_domain=self._trust_domain, issuer=self._policy.jwt_issuer
                )

    async def _self_signed(self, key: Key, now: datetime) -> AuthorityRecord:
        """Return the record of a new self-signed authority (X509-SVID §3.2)."""
        serial = new_serial()
        not_after = now + self._policy.ca_ttl
        identifier = subject_key_id(key.public_key)
        tbs = _authority_tbs(self._trust_domain, key, serial=serial, now=now, not_after=not_after)
        algorithm = _algorithm_der(key)
        certificate = der.sequence(tbs, algorithm, der.bit_string(await key.sign(tbs)))
        made = x509.load_der_x509_certificate(certificate)
        made.verify_directly_issued_by(made)  # once for each key: a signer that errs is found here
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


def _algorithm_der(key: Key) -> bytes:
    kind = key_kind(key.public_key)
    if kind in _ALGORITHM:
        return der.sequence(der.oid(_ALGORITHM[kind]))
    return der.sequence(der.oid("1.2.840.113549.1.1.11"), b"\x05\x00")


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
        _algorithm_der(key),
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
