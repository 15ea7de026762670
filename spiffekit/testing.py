# SPDX-License-Identifier: Apache-2.0
"""An authority for tests: ``TestCA("example.org").issue("spiffe://example.org/web")``.

**Not for production**: it keeps its key in memory, publishes nothing and asks nobody.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from spiffekit.bundle import Bundle, JwtAuthority, X509Authority
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.jwk import encode_base64url, from_public_key
from spiffekit.jws import with_signature
from spiffekit.keys import private_key_to_der, public_key_to_der
from spiffekit.policy import Policy, PolicyBundle, Principal
from spiffekit.policy.bundle import LIFETIME as POLICY_LIFETIME
from spiffekit.policy.bundle import TYP as POLICY_TYP
from spiffekit.status import LIFETIME, TYP, AgentStatus
from spiffekit.x509svid import X509Svid

HOUR: Final = timedelta(hours=1)
LEAF_USAGE: Final = {"digital_signature": True}
CA_USAGE: Final = {"key_cert_sign": True, "crl_sign": True}
_NO_USAGE: Final = dict.fromkeys(
    (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    ),
    False,
)  # fmt: skip
BOTH_PURPOSES: Final = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


class TestCA:
    """The authority of one trust domain, X.509, JWT and WIT, with P-256 keys.

    With a `seed`, and `now` given, it makes the same keys, certificates and tokens again in every run.
    """

    __test__ = False  # not a test case, whatever its name

    def __init__(
        self, trust_domain: str = "example.org", *, now: datetime | None = None, seed: bytes = b""
    ) -> None:
        self._seed, self._made = seed, 0
        self.trust_domain = TrustDomain(trust_domain)
        self.now = now or datetime.now(UTC).replace(microsecond=0)
        self.key = self.new_key()
        self.jwt_key = self.new_key()
        self.key_id = "test-key"
        self.wit_key_id = "test-wit-key"
        self.certificate = self.certify(
            self.key.public_key(),
            uris=[f"spiffe://{trust_domain}"],
            common_name=f"Test CA of {trust_domain}"[:64],
            ca=True,
            usage=CA_USAGE,
            purposes=(),
            lifetime=24 * HOUR,
        )

    def new_key(self) -> ec.EllipticCurvePrivateKey:
        """Make a P-256 key."""
        if not self._seed:
            return ec.generate_private_key(ec.SECP256R1())
        return ec.derive_private_key(self._next() | 1, ec.SECP256R1())

    def _next(self) -> int:
        self._made += 1
        return int.from_bytes(hashlib.sha256(self._seed + self._made.to_bytes(4)).digest()[:16])

    @property
    def bundle(self) -> Bundle:
        """The bundle that trusts this authority."""
        der = self.certificate.public_bytes(serialization.Encoding.DER)
        jwt_authority = JwtAuthority(self.key_id, public_key_to_der(self.jwt_key.public_key()))
        return Bundle(self.trust_domain, (X509Authority(der),), (jwt_authority,), sequence=1)

    @cached_property
    def wit_key(self) -> ec.EllipticCurvePrivateKey:
        """The key that signs WIT-SVIDs."""
        if not self._seed:
            return ec.generate_private_key(ec.SECP256R1())
        derived = int.from_bytes(hashlib.sha256(self._seed + b"wit").digest()[:16])
        return ec.derive_private_key(derived | 1, ec.SECP256R1())

    @property
    def wit_bundle(self) -> Bundle:
        """The bundle that trusts this authority for WIT-SVIDs, too."""
        authority = JwtAuthority(self.wit_key_id, public_key_to_der(self.wit_key.public_key()))
        return replace(self.bundle, wit_authorities=(authority,))

    def issue(
        self, spiffe_id: str, *, lifetime: timedelta = HOUR, hint: str = "", **changes: Any
    ) -> X509Svid:
        """Return an SVID; `changes` go to `certify`."""
        key = self.new_key()
        leaf = self.certify(key.public_key(), **{"uris": [spiffe_id], "lifetime": lifetime, **changes})
        der = leaf.public_bytes(serialization.Encoding.DER)
        return X509Svid(SpiffeId.parse(spiffe_id), (der,), private_key_to_der(key), hint)

    def certify(  # noqa: PLR0913 - every part of a certificate can be made wrong
        self,
        public_key: Any,
        *,
        uris: Sequence[str],
        common_name: str = "workload",
        ca: bool | None = False,
        usage: Mapping[str, bool] | None = None,
        purposes: Sequence[x509.ObjectIdentifier] = BOTH_PURPOSES,
        lifetime: timedelta = HOUR,
        not_before: datetime | None = None,
        issuer: "TestCA | None" = None,
        extra: Sequence[tuple[x509.ExtensionType, bool]] = (),
        hash_algorithm: hashes.SHA224 | hashes.SHA256 | hashes.SHA384 | None = None,
        path_length: int | None = None,
    ) -> x509.Certificate:
        """Return a certificate in whose every part may be wrong.

        An extension is left out by `None` or an empty value, the subject by an empty name.
        """
        start = not_before or self.now - timedelta(seconds=10)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])
        signer = issuer or self
        issuer_name = signer.certificate.subject if hasattr(signer, "certificate") else name
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(issuer_name)
            .public_key(public_key)
            .serial_number(self._next() if self._seed else x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + lifetime)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key()), critical=False
            )
        )
        if uris:
            san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris])
            builder = builder.add_extension(san, critical=False)
        if ca is not None:
            builder = builder.add_extension(x509.BasicConstraints(ca, path_length), critical=True)
        wanted = LEAF_USAGE if usage is None else usage
        if wanted:
            builder = builder.add_extension(x509.KeyUsage(**{**_NO_USAGE, **wanted}), critical=True)
        if purposes:
            builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        for extension, critical in extra:
            builder = builder.add_extension(extension, critical)
        reproducible = bool(self._seed) and isinstance(signer.key, ec.EllipticCurvePrivateKey)
        return builder.sign(
            signer.key, hash_algorithm or hashes.SHA256(), ecdsa_deterministic=reproducible or None
        )

    def crl(self, *serials: int, number: int = 1, lifetime: timedelta = HOUR) -> bytes:
        """Return a revocation list, DER, that names certificates by serial number."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(self.now)
            .next_update(self.now + lifetime)
            .add_extension(x509.CRLNumber(number), critical=False)
        )
        for serial in serials:
            revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(self.now)
            builder = builder.add_revoked_certificate(revoked.build())
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)

    def status(self, *, sequence: int = 1, **changes: Any) -> str:
        """Return a signed status of agents, as of now; `changes` are fields of `AgentStatus`."""
        fields = {"issued_at": self.now, "expires_at": self.now + LIFETIME, **changes}
        status = AgentStatus(trust_domain=self.trust_domain, sequence=sequence, **fields)
        return self.jwt("", header={"typ": TYP}, claims={"sub": None, "aud": None, **status.claims()})

    def policies(
        self, *texts: str, sequence: int = 1, agents: Iterable[Principal] = (), **changes: Any
    ) -> str:
        """Return signed policies of now, named p1, p2, …; `changes` are fields of `PolicyBundle`."""
        fields = {
            "version": sequence,
            "issued_at": self.now,
            "expires_at": self.now + POLICY_LIFETIME,
            "policies": tuple(Policy(name=f"p{n}", version=1, text=text) for n, text in enumerate(texts, 1)),
            "agents": {agent.spiffe_id: agent for agent in agents},
            **changes,
        }
        bundle = PolicyBundle(trust_domain=self.trust_domain, sequence=sequence, **fields)
        return self.jwt("", header={"typ": POLICY_TYP}, claims={"sub": None, "aud": None, **bundle.claims()})

    def jwt(
        self,
        subject: str,
        audience: Sequence[str] = ("test",),
        *,
        lifetime: timedelta = HOUR,
        header: Mapping[str, Any] | None = None,
        claims: Mapping[str, Any] | None = None,
    ) -> str:
        """Return a JWT-SVID; a header or claim that is None is left out."""
        whole_header = {"alg": "ES256", "kid": self.key_id, "typ": "JWT", **(header or {})}
        whole_claims = {"sub": subject, "aud": list(audience), **self._times(lifetime), **(claims or {})}
        return self.sign(whole_header, whole_claims, self.jwt_key)

    def wit(
        self,
        subject: str,
        key: ec.EllipticCurvePublicKey,
        *,
        lifetime: timedelta = HOUR,
        header: Mapping[str, Any] | None = None,
        claims: Mapping[str, Any] | None = None,
    ) -> str:
        """Return a WIT-SVID for whoever has a P-256 key; a header or claim that is None is left out."""
        whole_header = {"alg": "ES256", "kid": self.wit_key_id, "typ": "wit+jwt", **(header or {})}
        cnf = {"jwk": {**from_public_key(key), "alg": "ES256"}}
        whole_claims = {"sub": subject, "cnf": cnf, **self._times(lifetime), **(claims or {})}
        return self.sign(whole_header, whole_claims, self.wit_key)

    def _times(self, lifetime: timedelta) -> dict[str, int]:
        now = int(self.now.timestamp())
        return {"exp": now + int(lifetime.total_seconds()), "iat": now}

    def sign(
        self, header: Mapping[str, Any], claims: Mapping[str, Any], key: ec.EllipticCurvePrivateKey
    ) -> str:
        """Return a token that a P-256 key signs; a header or claim that is None is left out."""
        signed = ".".join(
            encode_base64url(json.dumps({k: v for k, v in part.items() if v is not None}).encode())
            for part in (header, claims)
        )
        algorithm = ec.ECDSA(hashes.SHA256(), deterministic_signing=bool(self._seed))
        return with_signature(signed, key.sign(signed.encode(), algorithm), "ES256")
