# SPDX-License-Identifier: Apache-2.0
"""SPIFFE for Python: IDs, trust bundles, SVIDs, and the Workload API.

The standards are pure here: no loop, socket, clock or stub; the present instant and the bundles are
arguments. `spiffekit.workload` is the client of the Workload API. Importing this package loads no
protobuf, so it lives beside any other library of the field.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spiffekit.bundle import Bundle, BundleSet, BundleSource, JwtAuthority, X509Authority
    from spiffekit.id import SpiffeId, TrustDomain
    from spiffekit.jwtsvid import JwtSvid
    from spiffekit.selector import Selector
    from spiffekit.x509svid import X509Svid

_ROOMS = {
    "bundle": ("Bundle", "BundleSet", "BundleSource", "JwtAuthority", "X509Authority"),
    "id": ("SpiffeId", "TrustDomain"),
    "jwtsvid": ("JwtSvid",),
    "selector": ("Selector",),
    "x509svid": ("X509Svid",),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}

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


def __getattr__(name: str) -> Any:
    """Load a room when something of it is asked for: a command that needs an ID only starts at once."""
    if name not in _ROOM_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ROOM_OF[name]}"), name)
