# SPDX-License-Identifier: Apache-2.0
"""A Workload API to talk to, and messages for it to say."""

import asyncio
from datetime import timedelta

import pytest

from spiffekit.errors import WorkloadApiUnavailableError
from spiffekit.testing import TestCA
from tests.fakes.workload_api import FakeWorkloadApi


@pytest.fixture(scope="session")
def ca():
    return TestCA("example.org")


@pytest.fixture(scope="session")
def other_ca():
    return TestCA("other.test")


@pytest.fixture
def api():
    return FakeWorkloadApi()


@pytest.fixture
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("w") / "api.sock"


def x509_message(api, ca, *svids, federated=(), crls=()):
    kind = api.messages["X509SVID"]
    return api.messages["X509SVIDResponse"](
        svids=[
            kind(
                spiffe_id=str(s.spiffe_id),
                x509_svid=b"".join(s.chain_der),
                x509_svid_key=s.private_key_der,
                bundle=ca.bundle.x509_der(),
                hint=s.hint,
            )
            for s in svids
        ],
        federated_bundles={f"spiffe://{c.trust_domain}": c.bundle.x509_der() for c in federated},
        crl=list(crls),
    )


async def until(condition, within=20.0):
    """Wait until a condition holds; something else on this loop makes it so."""
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.005)


async def does_not_get_ready(open_source, reason):
    """A source says why it does not get ready; a busy machine takes a while until it has heard anything."""
    for within in (0.3, 3, 30):
        with pytest.raises(WorkloadApiUnavailableError) as caught:
            async with open_source(ready_within=timedelta(seconds=within)):
                pass
        if str(caught.value).startswith(f"{reason} within "):
            return
    raise AssertionError(str(caught.value))
