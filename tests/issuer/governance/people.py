# SPDX-License-Identifier: Apache-2.0
"""Lists of people as an identity provider exports them."""

import json
import os

from issuer.governance.people import ACCOUNTS_SCHEMA, People
from issuer.model import Owner

IDP = "https://idp.example.org"
ALICE, BOB = Owner(IDP, "alice"), Owner(IDP, "bob")
TEAM = Owner(IDP, "team", group=True)


def user(subject, *accounts, groups=(), active=True):
    return {
        "schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"],
        "id": f"id-{subject}",
        "externalId": subject,
        "userName": f"{subject}@example.org",
        "active": active,
        "groups": [{"value": group, "display": group} for group in groups],
        ACCOUNTS_SCHEMA: {"accounts": list(accounts)},
    }


def write(path, *users, **changes):
    document = {
        "schemas": ["urn:ietf:params:scim:api:messages:2.0:ListResponse"],
        "totalResults": len(users),
        "Resources": list(users),
    }
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(document | changes))
    os.replace(fresh, path)


def listed(path):
    return People(path, IDP)
