# SPDX-License-Identifier: Apache-2.0
"""Our attestor below an issuer that cannot push, like a stock SPIRE server: it polls and follows."""

import asyncio
import json

import pytest

from deploy.local import Daemon
from spiffekit.workload import WorkloadApi
from tests.system.conftest import UID, deployment, eventually, ids_of, nodes

ID = "spiffe://example.org"
MANY = 600  # entries: from 501 on the issuer tells revisions first, and sends what is then asked for
POLLING = "issuer has no push stream, polling it instead"
UNTOLD = "issuer takes no reports for an audit trail; none are kept until it does"


@pytest.fixture(scope="module")
def settings():
    return {"issuer": {"ca_ttl": "40s", "default_x509_svid_ttl": "6s", "node_svid_ttl": "30s"}}


@pytest.fixture(scope="module")
def local(folder, machines, settings):
    with deployment(folder, machines, settings) as stock:
        stock.issuer = Daemon("tests.system.stock_issuer", folder, stock.issuer_config)
        yield stock.start_issuer()


@pytest.fixture(scope="module")
def attestor(local, machines):
    # A certificate proves the node anew where a busy machine let the node's own SVID end; a token would not.
    proof = {"node_attestor.x509pop": machines.node(local.folder, "polling")}
    attestor = local.start_attestor(settings={"attestor": {"sync_interval": "1s"}, **proof})
    (attestor.node_id,) = nodes(local)
    return attestor


def granted(attestor):
    """The serial number of this process's first SVID, and the bundles as PEM by trust domain."""

    async def fetch():
        async with WorkloadApi.connect(attestor.endpoint) as api:
            return await api.fetch_x509()

    update = asyncio.run(fetch())
    return update.svids[0].serial_number, {str(b.trust_domain): b.to_pem().decode() for b in update.bundles}


def test_an_attestor_follows_an_issuer_that_cannot_push(local, attestor, folder):
    node = attestor.node_id
    assert attestor.daemon.log.read_text().count(POLLING) == 1
    eventually(lambda: attestor.daemon.log.read_text().count(UNTOLD), 1)
    # 1. Entries below the node, below another entry, and below an alias of the node come to it.
    direct = local.register("/direct", node, UID)
    hidden = local.register("/hidden", node, "unix:user:nobody-has-this-name")
    nested = local.register("/nested", f"{ID}/hidden", UID)
    alias = local.operator_json(
        "entry", "create", "--node", "--spiffeID", f"{ID}/fleet", "--selector", f"spiffe_id:{node}"
    )["results"][0]["entry"]["id"]
    below = local.register("/below-the-alias", f"{ID}/fleet", UID)
    local.register("/elsewhere", f"{ID}/another-node", UID)
    eventually(lambda: ids_of(attestor), [f"{ID}/{name}" for name in ("direct", "nested", "below-the-alias")])
    # 2. An update is followed, and so is every deletion: of the way to an entry as well.
    update = ["entry", "update", "--parentID", node, "--selector", UID]
    local.operator(*update, "--entryID", direct, "--spiffeID", f"{ID}/renamed")
    local.operator("entry", "delete", "--entryID", hidden)
    eventually(lambda: ids_of(attestor), [f"{ID}/renamed", f"{ID}/below-the-alias"])
    local.operator("entry", "delete", "--entryID", alias)
    eventually(lambda: ids_of(attestor), [f"{ID}/renamed"])
    for entry_id in (direct, nested, below):
        local.operator("entry", "delete", "--entryID", entry_id)
    eventually(lambda: ids_of(attestor), [])


def test_among_many_entries_a_change_is_followed(local, attestor, folder):
    # 1. So many that their revisions come first.
    crowd = [
        {
            "id": f"crowd-{number}",
            "spiffe_id": f"{ID}/crowd/{number}",
            "parent_id": attestor.node_id,
            "selectors": [{"type": "unix", "value": f"uid:{10_000_000 + number}"}],
        }
        for number in range(MANY)
    ]
    data = folder / "crowd.json"
    data.write_text(json.dumps({"entries": crowd}))
    local.operator("entry", "create", "--data", str(data))
    mine = local.register("/one-of-many", attestor.node_id, UID)
    eventually(lambda: ids_of(attestor), [f"{ID}/one-of-many"])
    # 2. One of them changes, one goes.
    update = ["entry", "update", "--parentID", attestor.node_id, "--selector", UID]
    local.operator(*update, "--entryID", "crowd-7", "--spiffeID", f"{ID}/crowd/7")
    eventually(lambda: sorted(ids_of(attestor)), [f"{ID}/crowd/7", f"{ID}/one-of-many"])
    local.operator("entry", "delete", "--entryID", mine)
    eventually(lambda: ids_of(attestor), [f"{ID}/crowd/7"])
    (folder / "ids.json").write_text(json.dumps({"ids": [entry["id"] for entry in crowd]}))
    local.operator("entry", "delete", "--file", str(folder / "ids.json"))
    eventually(lambda: ids_of(attestor), [])


def test_bundles_and_svids_stay_fresh_by_polling(local, attestor, folder):
    bundle = folder / "other.pem"

    def federate():
        bundle.write_text(local.operator("bundle", "show").stdout)
        local.operator("bundle", "set", "--id", "other.org", "--path", str(bundle))

    federate()
    entry = local.register("/federated", attestor.node_id, UID, options=["--federatesWith", "other.org"])
    eventually(lambda: ids_of(attestor), [f"{ID}/federated"])
    serial, bundles = granted(attestor)
    assert bundles["other.org"] == bundle.read_text()
    # 1. SVIDs are replaced in time, and an authority comes that was not there.
    eventually(lambda: granted(attestor)[0] != serial, True)
    known = bundles["example.org"].count("BEGIN CERTIFICATE")
    eventually(lambda: granted(attestor)[1]["example.org"].count("BEGIN CERTIFICATE") > known, True, 30)
    # 2. A bundle that an operator replaces follows.
    federate()
    eventually(lambda: granted(attestor)[1]["other.org"], bundle.read_text())
    # 3. The issuer is started again; the attestor goes on, and asks for a push stream no more.
    local.issuer.stop()
    local.start_issuer()
    local.operator("entry", "delete", "--entryID", entry)
    eventually(lambda: ids_of(attestor), [])
    assert attestor.daemon.log.read_text().count(POLLING) == 1
