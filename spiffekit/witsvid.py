# SPDX-License-Identifier: Apache-2.0
"""WIT-SVIDs and the proofs that make them worth something: parse, prove, verify. Pure: no clock, no socket.

A WIT-SVID names a workload and a key of it. Alone it says nothing about who presents it: there is no
function here that believes one without a proof by that key (WIT-SVID §4). The proof is a Workload Proof
Token, a JWT of the type ``wpt+jwt`` that is made for one request (draft-ietf-wimse-wpt).
"""

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, Final, Self

from cryptography.hazmat.primitives.asymmetric import ec

from spiffekit import jws
from spiffekit.bundle import BundleSource
from spiffekit.errors import (
    AudienceError,
    BundleError,
    ExpiredError,
    JwtSvidError,
    ReplayedError,
    SpiffeIdError,
    UnauthorizedPeerError,
    UntrustedError,
    WitSvidError,
)
from spiffekit.id import SpiffeId
from spiffekit.jwk import Element, encode_base64url, from_public_key
from spiffekit.jws import DEFAULT_LEEWAY, Jws
from spiffekit.keys import PublicKey

TOKEN_HEADER: Final = "Workload-Identity-Token"  # noqa: S105 - of HTTP; never Authorization (WIT-SVID §5)
PROOF_HEADER: Final = "Workload-Proof-Token"
TOKEN_TYPE: Final = "wit+jwt"  # noqa: S105 - WIT-SVID §2.2
PROOF_TYPE: Final = "wpt+jwt"
MAX_PROOF_LIFETIME: Final = timedelta(seconds=30)  # one request; stolen on the way it is worth little
MAX_PROOF_BYTES: Final = 16 * 1024  # characters
MAX_AUDIENCE: Final = 2048  # characters
MAX_JTI: Final = 256  # characters
MAX_REMEMBERED: Final = 100_000  # proofs: some 10 MB
_PRIVATE: Final = frozenset(("d", "p", "q", "dp", "dq", "qi", "oth", "k"))  # members of a JWK, RFC 7518 §6


@dataclass(frozen=True)
class WitSvid:
    """A WIT-SVID. `repr` shows neither token nor claims. You get one by `verify` or `parse_unverified`.

    `public_key` is the key that the workload has to prove that it holds, and `algorithm` what it signs with.
    """

    spiffe_id: SpiffeId
    expires_at: datetime
    issued_at: datetime | None
    public_key: PublicKey = field(repr=False)
    algorithm: str
    token: str = field(repr=False)
    claims: Mapping[str, Any] = field(repr=False, hash=False)
    key_id: str
    jti: str = ""
    hint: str = ""

    @classmethod
    def parse_unverified(cls, token: str, *, hint: str = "") -> Self:
        """Parse a token whose issuer is known by other means, such as the Workload API.

        **This does not verify the signature or the time, and asks for no proof.**

        Raises:
            WitSvidError: It is malformed.
        """
        with _malformed():
            return cls(**_claims(Jws.parse_unverified(token, typ=TOKEN_TYPE)), token=token, hint=hint)


@dataclass(frozen=True, slots=True)
class Bound:
    """Further tokens of the same request, which a proof is for as well; "" for none.

    `others` are those of other kinds, by the name that the receiver knows them by.
    """

    access_token: str = field(default="", repr=False)
    transaction_token: str = field(default="", repr=False)
    others: Mapping[str, str] = field(default_factory=dict, repr=False)

    def claims(self) -> dict[str, object]:
        """Return the claims of a proof that is for these tokens."""
        found: dict[str, object] = {}
        if self.access_token:
            found["ath"] = hash_of(self.access_token)
        if self.transaction_token:
            found["tth"] = hash_of(self.transaction_token)
        if self.others:
            found["oth"] = {name: hash_of(token) for name, token in self.others.items()}
        return found


_UNBOUND: Final = Bound()


def hash_of(token: str) -> str:
    """Return what a proof says of a token: its SHA-256 in base64url, as `wth` and its like have it."""
    return encode_base64url(hashlib.sha256(token.encode("utf-8")).digest())


def proof_claims(
    wth: str,
    audience: str,
    *,
    now: datetime,
    lifetime: timedelta = MAX_PROOF_LIFETIME,
    bound: Mapping[str, object] = MappingProxyType({}),
) -> dict[str, object]:
    """Return the claims of a proof for one request.

    Args:
        wth: `hash_of` the WIT-SVID.
        audience: Who it is for: the URI of the request without query and fragment.
        now: The instant of the request.
        lifetime: How long it may take to arrive; at most `MAX_PROOF_LIFETIME`.
        bound: `Bound.claims` of the other tokens of the request.

    Raises:
        WitSvidError: The audience is empty or too long, or the lifetime is.
    """
    if not 0 < len(audience) <= MAX_AUDIENCE:
        raise WitSvidError(f"proof: aud is empty or longer than {MAX_AUDIENCE} characters")
    if not timedelta(seconds=1) <= lifetime <= MAX_PROOF_LIFETIME:
        raise WitSvidError(f"proof: lifetime is not between 1 and {MAX_PROOF_LIFETIME.seconds} seconds")
    return {
        "aud": audience,
        "exp": int((now + lifetime).timestamp()),
        "jti": secrets.token_urlsafe(16),
        "wth": wth,
        **bound,
    }


def make_proof(
    svid: WitSvid,
    key: ec.EllipticCurvePrivateKey,
    audience: str,
    *,
    now: datetime,
    lifetime: timedelta = MAX_PROOF_LIFETIME,
    bound: Bound = _UNBOUND,
) -> str:
    """Return a proof that whoever sends this request holds the key of a WIT-SVID. See `proof_claims`.

    Raises:
        WitSvidError: The key is not that of the SVID, or a claim is too long.
    """
    if key.public_key() != svid.public_key:
        raise WitSvidError("proof: the key is not that of the SVID")
    claims = proof_claims(hash_of(svid.token), audience, now=now, lifetime=lifetime, bound=bound.claims())
    return jws.sign(PROOF_TYPE, claims, key)


class Replays:
    """The proofs that were here and could come again: one such memory for all of a receiver."""

    def __init__(self, limit: int = MAX_REMEMBERED) -> None:
        self._limit = limit
        self._seen: OrderedDict[tuple[str, str], datetime] = OrderedDict()

    def __len__(self) -> int:
        return len(self._seen)

    def spend(self, wth: str, jti: str, *, until: datetime, now: datetime) -> None:
        """Let a proof count, once.

        Args:
            wth: The hash of the WIT-SVID that it is for.
            jti: Its ID.
            until: When it could not count any more anyway.
            now: The instant to judge by.

        Raises:
            ReplayedError: It was here before; or so many are remembered that it cannot be told of later ones.
        """
        if (wth, jti) in self._seen:
            raise ReplayedError("proof was here before")
        if len(self._seen) >= self._limit:
            self._seen = OrderedDict((key, end) for key, end in self._seen.items() if now < end)
            if len(self._seen) >= self._limit:
                raise ReplayedError(f"more than {self._limit} proofs at once: too many to remember")
        self._seen[wth, jti] = until


@dataclass(frozen=True, slots=True)
class Presentation:
    """What a request brought: a WIT-SVID, the proof made for it, and whom and what they have to fit.

    `peer` is whom the certificate of the TLS connection names, if one was shown; `bound` are further tokens.
    """

    token: str = field(repr=False)
    proof: str = field(repr=False)
    peer: SpiffeId | None = None
    bound: Bound = _UNBOUND

    @classmethod
    def from_headers(
        cls, headers: Mapping[str, str], *, peer: SpiffeId | None = None, bound: Bound = _UNBOUND
    ) -> Self:
        """Take SVID and proof from the fields of an HTTP request.

        Raises:
            WitSvidError: One of both is missing, or a WIT-SVID is used as a bearer token (WIT-SVID §5).
        """
        found = {name.lower(): value for name, value in headers.items()}
        with suppress(JwtSvidError):
            Jws.parse_unverified(found.get("authorization", "").rpartition(" ")[2], typ=TOKEN_TYPE)
            raise WitSvidError("Authorization has a WIT-SVID: it is no bearer token")
        token, proof = (found.get(name.lower(), "") for name in (TOKEN_HEADER, PROOF_HEADER))
        if not token or not proof:
            raise WitSvidError(f"{PROOF_HEADER if token else TOKEN_HEADER} is missing")
        return cls(token, proof, peer, bound)

    def headers(self) -> dict[str, str]:
        """Return the fields of an HTTP request that carry both; it has to go over TLS (WIT-SVID §7.3)."""
        return {TOKEN_HEADER: self.token, PROOF_HEADER: self.proof}


def verify(
    presented: Presentation,
    bundles: BundleSource,
    *,
    audience: Collection[str],
    now: datetime,
    replays: Replays | None,
    leeway: timedelta = DEFAULT_LEEWAY,
) -> WitSvid:
    """Verify a WIT-SVID against the bundle of its subject's own trust domain, and the proof against it.

    The procedure (WIT-SVID §2 to §4, §6.2), whose steps 5 to 11 are those of `_check_proof`:

    1. the SVID is a compact JWS of bounded size; `alg` is one of the nine, looked at before anything else;
       `typ` is exactly `wit+jwt`, no critical extension is asked for, and there is a `kid`;
    2. `sub` is a SPIFFE ID with a path, `exp` is there, `aud` is not; `cnf.jwk` is one public key and names
       an algorithm that fits it;
    3. the bundle is chosen by the subject's trust domain, the key by `kid` among its WIT authorities alone;
       it is of the type that `alg` asks for, and the signature is good;
    4. `now` is before `exp` and not before `nbf`, within `leeway`; `iat` and `jti` decide nothing.

    Args:
        presented: The WIT-SVID, the proof and what else came with the request.
        bundles: Where the bundle of the subject's trust domain comes from.
        audience: The URIs, without query and fragment, that this request may have been sent to.
        now: The instant to judge by.
        replays: What was here before; None lets a proof count as often as it comes.
        leeway: How far clocks may be apart.

    Raises:
        WitSvidError: SVID or proof are malformed.
        UnknownTrustDomainError: There is no bundle for the subject's trust domain.
        UntrustedError: No key of that bundle vouches for the SVID, or its own key not for the proof; or the
            proof is for other tokens.
        ExpiredError: `now` is outside the validity of either.
        AudienceError: The proof is meant for somebody else.
        UnauthorizedPeerError: The peer of the connection is another.
        ReplayedError: The proof was here before.
    """
    with _malformed():
        # (1), (2)
        signed = Jws.parse_unverified(presented.token, typ=TOKEN_TYPE)
        svid = WitSvid(**_claims(signed), token=presented.token)
        # (3)
        bundle = bundles.bundle_for(svid.spiffe_id.trust_domain)
        authority = bundle.wit_authority(svid.key_id)
        if authority is None:
            raise UntrustedError(
                f"no WIT authority {svid.key_id[:80]!r} in the bundle of {bundle.trust_domain}"
            )
        signed.check_signature(authority.public_key)
        # (4)
        signed.check_time(now, leeway)
    ends, jti = _check_proof(svid, presented, audience, now, leeway)
    # (11)
    if replays is not None:
        replays.spend(hash_of(svid.token), jti, until=ends + leeway, now=now)
    return svid


def _check_proof(
    svid: WitSvid, presented: Presentation, audience: Collection[str], now: datetime, leeway: timedelta
) -> tuple[datetime, str]:
    """Check that a proof is good but for its having been here before; return when it ends, and its ID.

    The procedure goes on (draft-ietf-wimse-wpt):

    5. the proof is a compact JWS, its `alg` exactly that of `cnf.jwk`, its `typ` exactly `wpt+jwt`;
    6. the key of `cnf.jwk` signed it;
    7. its `wth` is the hash of this very SVID;
    8. its `aud` is one of `audience`; `exp` is not over, and not farther off than `MAX_PROOF_LIFETIME`;
    9. it is for all other tokens of the request, and for no token that is not there;
    10. the subject is the peer of the connection, if that is known;
    11. it has an ID, and has not been here before.
    """
    # (5)
    with _malformed("proof: "):
        proven = Jws.parse_unverified(
            presented.proof, (svid.algorithm,), typ=PROOF_TYPE, longest=MAX_PROOF_BYTES
        )
        audience_of_proof, jti, ends = _proof_claims(proven)
    # (6)
    proven.check_signature(svid.public_key)
    # (7)
    if proven.payload.get("wth") != hash_of(svid.token):
        raise UntrustedError("proof is for another WIT-SVID")
    # (8)
    if audience_of_proof not in audience:
        raise AudienceError("proof is meant for somebody else")
    if not now - leeway < ends <= now + MAX_PROOF_LIFETIME + leeway:
        raise ExpiredError("proof has expired, or lives too long")
    # (9)
    named = {name: proven.payload[name] for name in ("ath", "tth", "oth") if name in proven.payload}
    if named != presented.bound.claims():
        raise UntrustedError("proof is for other tokens than those of the request")
    # (10)
    if presented.peer not in (None, svid.spiffe_id):
        raise UnauthorizedPeerError(f"{presented.peer} presents the WIT-SVID of {svid.spiffe_id}")
    return ends, jti


def confirmation(key: PublicKey, algorithm: str) -> dict[str, object]:
    """Return the claim `cnf` of a WIT-SVID for a public key (WIT-SVID §3.2)."""
    return {"jwk": {**from_public_key(key), "alg": algorithm}}


@contextmanager
def _malformed(prefix: str = "") -> Iterator[None]:
    try:
        yield
    except JwtSvidError as error:
        raise WitSvidError(f"{prefix}{error}") from error


def _claims(signed: Jws) -> dict[str, Any]:
    payload = signed.payload
    subject = payload.get("sub")
    if not isinstance(subject, str):
        raise WitSvidError("sub is missing or not a string")
    try:
        spiffe_id = SpiffeId.parse(subject)
    except SpiffeIdError as error:
        raise WitSvidError(f"sub: {error}") from error
    if not spiffe_id.path:
        raise WitSvidError("sub has no path")
    if "aud" in payload:  # WIT-SVID §3.8: it would pass for a bearer token
        raise WitSvidError("aud is there, and a WIT-SVID has none")
    key, algorithm = _confirmed(payload.get("cnf"))
    jti = payload.get("jti", "")
    if not isinstance(jti, str) or len(jti) > MAX_JTI:
        raise WitSvidError(f"jti is not a string of at most {MAX_JTI} characters")
    return {
        "spiffe_id": spiffe_id,
        "expires_at": signed.expires_at(),
        "issued_at": signed.instant("iat"),
        "public_key": key,
        "algorithm": algorithm,
        "claims": MappingProxyType(payload),
        "key_id": signed.key_id(),
        "jti": jti,
    }


def _confirmed(cnf: object) -> tuple[PublicKey, str]:
    """Return the key that the workload has to hold, and what it signs with (RFC 7800 §3.2; WIT-SVID §3.2)."""
    fields = cnf.get("jwk") if isinstance(cnf, dict) else None
    if not isinstance(fields, dict):
        raise WitSvidError("cnf has no jwk")
    if private := _PRIVATE & fields.keys():
        raise WitSvidError(f"cnf.jwk has the member {min(private)!r}: it is no public key")
    try:
        key = Element(0, fields).public_key()
    except BundleError as error:
        raise WitSvidError(f"cnf.jwk: {error}") from error
    algorithm = fields.get("alg")
    if not isinstance(algorithm, str) or algorithm not in jws.algorithms_of(key):
        raise WitSvidError(f"cnf.jwk: alg {str(algorithm)[:20]!r} is none of the key's")
    return key, algorithm


def _proof_claims(proven: Jws) -> tuple[str, str, datetime]:
    audience = proven.audience()
    if len(audience) != 1:
        raise WitSvidError("proof: aud names more than one")
    jti = proven.payload.get("jti")
    if not isinstance(jti, str) or not 0 < len(jti) <= MAX_JTI:
        raise WitSvidError(f"proof: jti is not a string of 1 to {MAX_JTI} characters")
    return audience[0], jti, proven.expires_at()
