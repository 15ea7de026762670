# SPDX-License-Identifier: Apache-2.0
"""The policies that the issuer pushes: verified by the own bundle, never older than before, and passed on.

The attestor itself decides nothing by them; local tool servers do, and verify again. What cannot be verified
is refused and told as an alarm, and what was there before stays until it expires.
"""

import logging
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime

from attestor.cache import Watcher, watching
from spiffekit.bundle import Bundle, BundleSet
from spiffekit.errors import PolicyError, VerificationError
from spiffekit.policy import PolicyBundle

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SaidPolicies:
    """What the issuer said, as it came. **Nothing in it is verified** yet."""

    number: int  # by which the issuer knows what it has said
    token: str = field(repr=False)  # a JWS


class PolicyShelf:
    """The newest policies of the trust domain. Used from one event loop."""

    def __init__(self) -> None:
        self.token = ""  # a JWS; "": the issuer has said nothing yet
        self.number = 0
        self.refused = 0  # bundles that could not be verified
        self.issued_at: datetime | None = None
        self._newest: PolicyBundle | None = None
        self._watchers: set[Watcher] = set()

    def take(self, said: SaidPolicies, bundle: Bundle | None, now: datetime) -> None:
        """Keep what the issuer said if it verifies and is no older, and wake who waits.

        Args:
            said: As it came.
            bundle: Our own, None if there is none yet.
            now: The instant to judge by.
        """
        try:
            own = BundleSet(() if bundle is None else (bundle,))
            found = PolicyBundle.verify(said.token, own, now=now)
            newer = found.is_newer_than(self._newest)
        except (PolicyError, VerificationError) as error:
            self.refused += 1
            # An alarm: the issuer errs, or somebody plays it.
            logger.error("issuer's policies refused", extra={"reason": str(error)})  # noqa: TRY400
            return
        self.number = said.number
        if newer:
            self._newest, self.token, self.issued_at = found, said.token, found.issued_at
            for watcher in self._watchers:
                watcher.wake()

    def watching(self) -> AbstractContextManager[Watcher]:
        """Yield something that misses nothing of what the issuer says."""
        return watching(self._watchers)
