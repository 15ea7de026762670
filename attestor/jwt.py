# SPDX-License-Identifier: Apache-2.0
"""JWT-SVIDs on demand, remembered by entry and audience until half of their life is over.

What an authority signed that is tainted, or has left the bundle, is not given out again: whoever stole that
key can sign as well, and verifiers are about to refuse it. Nor is what the issuer has taken back.
"""

from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from attestor.cache import Cache, Entry
from attestor.errors import IssuerUnavailableError, IssuerUntrustedError
from attestor.issuer_client import IssuerClient
from spiffekit.daemon.clock import Clock
from spiffekit.errors import SpiffeError
from spiffekit.evidence import Evidence
from spiffekit.jwtsvid import JwtSvid

MAX_CACHED: Final = 1000  # tokens

Key = tuple[str, int, tuple[str, ...], str]


class JwtCache:
    """See the module. A token with a `jti` is never given out twice."""

    def __init__(self, client: IssuerClient, cache: Cache, clock: Clock) -> None:
        self._client = client
        self._cache = cache
        self._clock = clock
        self._tokens: OrderedDict[Key, JwtSvid] = OrderedDict()
        self.issued = 0  # tokens that were taken up from the issuer

    async def fetch(self, entry: Entry, audience: Sequence[str], evidence: Evidence | None = None) -> JwtSvid:
        """Return a token for an entry; with evidence, one of that process alone.

        Raises:
            IssuerUnavailableError: There is none, and the issuer cannot be asked.
            IssuerUntrustedError: There is none, and whoever answers is not the issuer.
            AttestorError: The issuer refused.
        """
        instance = evidence.instance_uid if evidence is not None else ""
        key = (entry.id, entry.revision, tuple(sorted(set(audience))), instance)
        now = self._clock.now()
        if (remembered := self._tokens.get(key)) is not None and not self._is_vouched_for(remembered):
            del self._tokens[key]
        cached = None if entry.jwt_svid_include_jti else self._tokens.get(key)
        if cached is not None and _fresh(cached, now):
            self._tokens.move_to_end(key)
            return cached
        try:
            token = await self._client.new_jwt_svid(entry.id, list(dict.fromkeys(audience)), evidence)
            svid = JwtSvid.parse_unverified(token, audience, hint=entry.hint)
        except (IssuerUnavailableError, IssuerUntrustedError):
            if cached is not None and now < cached.expires_at:
                return cached
            raise
        except SpiffeError as error:
            raise IssuerUnavailableError(f"issuer's JWT-SVID cannot be used: {error}") from error
        self.issued += 1
        if not entry.jwt_svid_include_jti:
            self._tokens[key] = svid
            self._tokens.move_to_end(key)
            if len(self._tokens) > MAX_CACHED:
                self._tokens.popitem(last=False)
        return svid

    def _is_vouched_for(self, svid: JwtSvid) -> bool:
        """Tell whether it is not taken back, and its authority in our bundle and not tainted."""
        if self._cache.taken_back.reason(svid):
            return False
        bundle = self._cache.bundles.get(self._cache.trust_domain)
        authority = bundle.jwt_authority(svid.key_id) if bundle is not None else None
        return authority is not None and not authority.tainted


def _fresh(svid: JwtSvid, now: datetime) -> bool:
    """Tell whether less than half of its life is over, and the clock was not set back."""
    issued_at = svid.issued_at
    return issued_at is not None and issued_at <= now < issued_at + (svid.expires_at - issued_at) / 2
