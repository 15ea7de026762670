# SPDX-License-Identifier: Apache-2.0
"""An issuer's database, keys and clock, on which its authorities can be started again and again."""

from datetime import timedelta

from issuer.ca.authorities import Authorities, AuthorityPolicy
from issuer.ca.rotation import Rotation, ServerIdentity
from issuer.ca.signing import Holder
from issuer.errors import StoreError
from issuer.keys import KeyManagerError
from issuer.keys.memory import MemoryKeyManager
from issuer.model import AuthorityKind, AuthorityState
from issuer.store import Database
from spiffekit.bundle import BundleSet
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.jwtsvid import verify as verify_jwt
from spiffekit.keys import KeyType, generate_private_key, public_key_to_der
from spiffekit.witsvid import Presentation, WitSvid, make_proof
from spiffekit.witsvid import verify as verify_wit
from spiffekit.x509svid import verify as verify_x509
from tests.fakes.clock import FakeClock

OURS = TrustDomain("example.org")
AGENT = SpiffeId.parse("spiffe://example.org/agent")
LEAF_PRIVATE_KEY = generate_private_key(KeyType.EC_P256)
LEAF_KEY = public_key_to_der(LEAF_PRIVATE_KEY.public_key())
DAY = timedelta(days=1)


class World:
    def __init__(self, folder, *, ca_ttl=DAY, keys=None, **policy):
        self.clock = FakeClock()
        self.keys = keys or MemoryKeyManager()
        self.policy = AuthorityPolicy(ca_ttl=ca_ttl, **{"wit": True, **policy})
        self.database = FailingDatabase.open(folder / "issuer.db", clock=self.clock)
        self.database.failures = 0

    async def start(self):
        """Start as a new process would: what was in memory is gone."""
        self.authorities = Authorities(
            OURS, self.policy, keys=self.keys, database=self.database, clock=self.clock
        )
        await self.authorities.load()
        return self.authorities

    def rotation(self, *, ttl=timedelta(hours=1)):
        self.identity = ServerIdentity(OURS, self.authorities, ttl=ttl, clock=self.clock)
        return Rotation(self.authorities, self.identity, ca_ttl=self.policy.ca_ttl, clock=self.clock)

    def close(self):
        self.database.close()

    async def bundle(self):
        return await self.database.read(lambda tx: tx.bundles.get(OURS))

    async def journal(self, kind):
        return await self.database.read(lambda tx: tx.authorities.all(kind))

    def state(self, kind):
        """The states of a kind, by authority."""
        return {record.id: record.state for record in self.authorities.slots(kind).records}

    def active(self, kind):
        return self.authorities.slots(kind).active

    async def sign(self, ttl=timedelta(minutes=1)):
        """Sign one SVID of each kind."""
        now = self.clock.now()
        holder = Holder(LEAF_KEY, "ES256")
        return (
            await self.authorities.x509.sign(AGENT, LEAF_KEY, ttl=ttl, now=now),
            await self.authorities.jwt.sign(AGENT, ("them",), ttl=ttl, now=now),
            await self.authorities.wit.sign(AGENT, holder, ttl=ttl, now=now),
        )

    async def check_signed(self, x509_svid, jwt_svid, wit_svid):
        """All are good by the bundle that is published, and end with their authority."""
        bundles, now = BundleSet([await self.bundle()]), self.clock.now()
        assert verify_x509(x509_svid.chain_der, bundles, now=now) == AGENT
        verify_jwt(jwt_svid.token, bundles, audience=["them"], now=now, leeway=timedelta(0))
        svid = WitSvid.parse_unverified(wit_svid.token)
        presented = Presentation(svid.token, make_proof(svid, LEAF_PRIVATE_KEY, "them", now=now))
        verify_wit(presented, bundles, audience=["them"], now=now, replays=None, leeway=timedelta(0))

    async def check(self):
        """Memory, journal and bundle agree, there is one active of each kind, and what it signs is good."""
        bundle = await self.bundle()
        published = {
            AuthorityKind.X509: {a.certificate_der for a in bundle.x509_authorities},
            AuthorityKind.JWT: {a.key_id for a in bundle.jwt_authorities},
            AuthorityKind.WIT: {a.key_id for a in bundle.wit_authorities},
        }
        for kind in self.authorities.kinds:
            slots = self.authorities.slots(kind)
            assert set(await self.journal(kind)) == set(slots.records)
            states = [record.state for record in slots.records]
            assert states.count(AuthorityState.ACTIVE) == 1
            assert states.count(AuthorityState.PREPARED) <= 1
            assert {record.certificate_der or record.id for record in slots.records} <= published[kind]
        if AuthorityKind.WIT in self.authorities.kinds:
            await self.check_signed(*await self.sign())
        return bundle


class FailingDatabase(Database):
    """A database whose next writes fail."""

    failures = 0

    async def write(self, act):
        if self.failures:
            self.failures -= 1
            raise StoreError("database failed, nothing was changed: database or disk is full")
        return await super().write(act)


class FailingKeys(MemoryKeyManager):
    """A key manager whose keys can become unreadable, and that may fail to delete."""

    def __init__(self):
        super().__init__()
        self.unreadable = set()
        self.stuck = False

    async def get(self, key_id):
        if key_id in self.unreadable:
            raise KeyManagerError(f"key {key_id!r}: the file cannot be read")
        return await super().get(key_id)

    async def delete(self, key_id):
        if self.stuck:
            raise KeyManagerError(f"key {key_id!r}: read-only file system")
        await super().delete(key_id)
