# SPDX-License-Identifier: Apache-2.0
"""What policy says: may this agent have that identity, may it call that tool. Pure: no clock, no network.

Policies are written in Cedar and checked against a closed schema, so that a policy cannot speak of what
nobody states. Whatever no policy permits is denied; whatever one forbids is denied although others permit it;
and so is everything while policies cannot be evaluated, or it is not known which ones hold.
"""

from spiffekit.policy.bundle import PolicyBook, PolicyBundle
from spiffekit.policy.engine import Decision, Denial, Policies, Policy
from spiffekit.policy.request import Attest, Http, Principal, Request, Resource

__all__ = [
    "Attest",
    "Decision",
    "Denial",
    "Http",
    "Policies",
    "Policy",
    "PolicyBook",
    "PolicyBundle",
    "Principal",
    "Request",
    "Resource",
]
