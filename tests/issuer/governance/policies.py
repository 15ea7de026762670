# SPDX-License-Identifier: Apache-2.0
"""Policies as they are stored."""

from issuer.model import StoredPolicy
from tests.issuer.strategies import NOW


def a_stored(text, name="p", version=1, **changes):
    fixed = {
        "sequence": version,
        "enforced": text is not None,
        "author": "local:uid=0,pid=1",
        "reason": "because",
        "created_at": NOW,
    }
    return StoredPolicy(name=name, version=version, text=text, **fixed | changes)
