# SPDX-License-Identifier: Apache-2.0
"""SPIFFE for Python: IDs, trust bundles, SVIDs, and the Workload API.

The standards are pure here: no loop, socket, clock or stub; the present instant and the bundles are
arguments. `spiffekit.workload` is the client of the Workload API. Importing this package loads no
protobuf, so it lives beside any other library of the field.
"""

from spiffekit.bundle import Bundle, BundleSet, BundleSource, JwtAuthority, X509Authority
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.jwtsvid import JwtSvid
from spiffekit.selector import Selector
from spiffekit.x509svid import X509Svid

__all__ = [
    "Bundle",
    "BundleSet",
    "BundleSource",
    "JwtAuthority",
    "JwtSvid",
    "Selector",
    "SpiffeId",
    "TrustDomain",
    "X509Authority",
    "X509Svid",
]
