# SPDX-License-Identifier: Apache-2.0
"""Keep authorities and the issuer's own certificate fresh, whatever the clock does."""

import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Final, NoReturn

from cryptography.hazmat.primitives.asymmetric import ec

from issuer.ca.authorities import Authorities
from issuer.ca.slots import should_activate, should_prepare
from issuer.errors import AuthorityNotReadyError, IssuerError
from issuer.model import AuthorityKind
from issuer.store.nodes import SERVER_PATH
from spiffekit.daemon.clock import Clock
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.keys import private_key_to_der, public_key_to_der
from spiffekit.x509svid import X509Svid

logger = logging.getLogger(__name__)

CHECK_EVERY: Final = timedelta(seconds=10)
MAX_CHECKS_A_LIFE: Final = 60  # with short lives the check comes more often


class ServerIdentity:
    """The issuer's own X.509-SVID, renewed at half of its life and when the authority changes."""

    def __init__(
        self, trust_domain: TrustDomain, authorities: Authorities, *, ttl: timedelta, clock: Clock
    ) -> None:
        self._id = SpiffeId(trust_domain, SERVER_PATH)
        self._authorities = authorities
        self.ttl = ttl
        self._clock = clock
        self._current: X509Svid | None = None
        self._authority_id = ""

    def x509_svid(self) -> X509Svid:
        """Return the SVID to present now."""
        if self._current is None:
            raise AuthorityNotReadyError("the issuer has no certificate yet")
        return self._current

    async def refresh(self) -> None:
        """Renew the SVID if it is time to."""
        now = self._clock.now()
        svid = self._current
        active = self._authorities.slots(AuthorityKind.X509).active
        if svid is not None and active is not None and self._authority_id == active.id:
            half = svid.not_before + (svid.expires_at - svid.not_before) / 2
            if svid.not_before <= now < half:
                return
        key = ec.generate_private_key(ec.SECP256R1())
        issued = await self._authorities.x509.sign(
            self._id, public_key_to_der(key.public_key()), ttl=self.ttl, now=now
        )
        self._current = X509Svid(self._id, issued.chain_der, private_key_to_der(key))
        self._authority_id = issued.authority_id


class Rotation:
    """The service that prepares, activates and prunes authorities in time."""

    def __init__(
        self, authorities: Authorities, identity: ServerIdentity, *, ca_ttl: timedelta, clock: Clock
    ) -> None:
        self._authorities = authorities
        self._identity = identity
        self._every = min(CHECK_EVERY, ca_ttl / MAX_CHECKS_A_LIFE, identity.ttl / 8)
        self._clock = clock

    async def run(self, ready: Callable[[], None]) -> NoReturn:
        """Check again and again; a failure is logged and tried again at the next check."""
        ready()
        while True:
            await self._clock.sleep(self._every)
            try:
                await self.check()
            except IssuerError:
                logger.exception("rotation failed, trying again")

    async def check(self) -> None:
        """Do what is due now."""
        for kind in self._authorities.kinds:
            await self._rotate(kind)
        await self._authorities.prune()
        await self._identity.refresh()

    async def _rotate(self, kind: AuthorityKind) -> None:
        now = self._clock.now()
        slots = self._authorities.slots(kind)
        active, prepared = slots.active, slots.prepared
        if active is None or not should_prepare(active, now):
            return
        if prepared is None or not await self._authorities.can_sign(prepared):
            prepared = await self._authorities.prepare(kind)
            if now < active.not_after:
                return  # it signs from the next check on, when it has reached the verifiers
        if should_activate(active, now):
            await self._authorities.activate(kind, prepared.id)
