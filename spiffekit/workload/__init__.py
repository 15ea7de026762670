# SPDX-License-Identifier: Apache-2.0
"""What a workload needs: where its Workload API is, and which peers it wants to talk to."""

from spiffekit.workload.address import AddressError, EndpointAddress, endpoint_address
from spiffekit.workload.authorize import Authorize, any_of, below, exact, member_of

__all__ = [
    "AddressError",
    "Authorize",
    "EndpointAddress",
    "any_of",
    "below",
    "endpoint_address",
    "exact",
    "member_of",
]
