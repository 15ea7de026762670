# SPDX-License-Identifier: Apache-2.0
"""Entries that need evidence, through the API: how they are kept, and what is signed for them."""

import secrets

import grpc
import pytest
from cryptography import x509

from spiffekit import x509svid
from spiffekit.evidence import Evidence, ProcessFacts
from spiffekit.id import SpiffeId
from spiffekit.jwtsvid import JwtSvid
from spiffekit.selector import Selector
from spiffekit.wire.evidence import evidence_to_proto
from spiffekit.wire.pb.spire.api import types_pb2
from spiffekit.wire.pb.spire.api.server.entry.v1 import entry_pb2, entry_pb2_grpc
from spiffekit.wire.pb.spire.api.server.svid.v1 import svid_pb2, svid_pb2_grpc
from tests.issuer_api.calls import refused
from tests.issuer_api.entries import create, create_one, get, message, update
from tests.issuer_api.world import csr

Code = grpc.StatusCode
TEMPLATE = "spiffe://example.org/u/{unix:user}"


@pytest.fixture
def operator(local):
    return entry_pb2_grpc.EntryStub(local)


@pytest.fixture
async def channel(world):
    return await world.dial(await world.node("n1"))


@pytest.fixture
def node(channel):
    return svid_pb2_grpc.SVIDStub(channel)


def evidence(clock, *texts, **changes):
    values = {
        "id": secrets.token_bytes(16),
        "instance_uid": "a" * 26,
        "collected_at": clock.now(),
        "selectors": frozenset(map(Selector.parse, texts or ("unix:uid:1000",))),
        "process": ProcessFacts(pid=1, start_ticks=2, uid=1000, gid=0, sha256="ff"),
    }
    return evidence_to_proto(Evidence(**{**values, **changes}))


async def sign(node, entry_id, saw=None):
    params = svid_pb2.NewX509SVIDParams(entry_id=entry_id, csr=csr(), evidence=saw)
    (result,) = (await node.BatchNewX509SVID(svid_pb2.BatchNewX509SVIDRequest(params=[params]))).results
    return result


async def test_an_entry_keeps_what_it_asks_for(operator):
    made = await create_one(operator, evidence_required=True, svid_per_process=True)
    assert (made.evidence_required, made.svid_per_process) == (True, True)
    assert await get(operator, made.id) == made


async def test_a_template_takes_the_place_of_the_id(operator):
    made = await create_one(operator, spiffe_id=None, spiffe_id_template=TEMPLATE)
    assert (made.spiffe_id_template, made.HasField("spiffe_id")) == (TEMPLATE, False)
    (again,) = await create(operator, message(spiffe_id=None, spiffe_id_template=TEMPLATE))
    assert (again.status.code, again.entry.id) == (Code.ALREADY_EXISTS.value[0], made.id)
    (changed,) = await update(
        operator, types_pb2.Entry(id=made.id, hint="new"), mask=types_pb2.EntryMask(hint=True)
    )
    assert (changed.entry.hint, changed.entry.spiffe_id_template) == ("new", TEMPLATE)
    assert (await get(operator, made.id)).spiffe_id_template == TEMPLATE


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"spiffe_id_template": TEMPLATE}, "spiffe_id is given as well"),
        ({"spiffe_id": None, "spiffe_id_template": "spiffe://example.org/{x"}, "spiffe_id_template: segment"),
        ({"spiffe_id": None, "spiffe_id_template": "spiffe://other.org/{unix:user}"}, "not of trust domain"),
        ({"spiffe_id": None, "spiffe_id_template": TEMPLATE, "admin": True}, "admin: not for a template"),
        ({"spiffe_id": None, "spiffe_id_template": TEMPLATE, "downstream": True}, "downstream: not for"),
        ({"spiffe_id": None, "spiffe_id_template": TEMPLATE, "store_svid": True}, "store_svid: not for"),
        (
            {
                "spiffe_id": None,
                "spiffe_id_template": TEMPLATE,
                "parent_id": types_pb2.SPIFFEID(trust_domain="example.org", path="/spire/server"),
            },
            "not for an alias",
        ),
    ],
    ids=["both", "malformed", "foreign", "admin", "downstream", "store", "alias"],
)
async def test_a_template_that_cannot_be_is_refused(operator, changes, why):
    (result,) = await create(operator, message(**changes))
    assert result.status.code == Code.INVALID_ARGUMENT.value[0]
    assert why in result.status.message


async def test_a_stock_agent_is_not_given_what_it_cannot_serve(operator, channel):
    plain = await create_one(operator, "/plain")
    await create_one(operator, "/proved", evidence_required=True)
    await create_one(operator, spiffe_id=None, spiffe_id_template=TEMPLATE)
    stub = entry_pb2_grpc.EntryStub(channel)
    answer = await stub.GetAuthorizedEntries(entry_pb2.GetAuthorizedEntriesRequest())
    assert [entry.id for entry in answer.entries] == [plain.id]


async def test_an_svid_is_signed_for_evidence_and_the_record_says_so(world, operator, node, clock):
    made = await create_one(operator, svid_per_process=True)
    result = await sign(node, made.id, evidence(clock))
    assert result.status == types_pb2.Status(message="OK")
    assert x509svid.spiffe_id_of(x509.load_der_x509_certificate(result.svid.cert_chain[0])) == SpiffeId.parse(
        "spiffe://example.org/web"
    )
    records = await world.database.read(lambda tx: tx.audit.since(0, 1000))
    record = records[-1][1]
    assert record.detail["evidence"]["instance"] == "a" * 26
    assert record.detail["evidence"]["process"]["sha256"] == "ff"
    assert record.attest.selectors_sha256 == record.detail["evidence"]["selectors_sha256"]


@pytest.mark.parametrize("kind", ["x509", "jwt"])
async def test_without_evidence_nothing_is_signed(operator, node, kind):
    made = await create_one(operator, evidence_required=True)
    if kind == "x509":
        result = await sign(node, made.id)
        assert result.status.code == Code.PERMISSION_DENIED.value[0]
        assert result.status.message == "evidence: the entry requires it"
    else:
        with refused(Code.PERMISSION_DENIED, "evidence: the entry requires it"):
            await node.NewJWTSVID(svid_pb2.NewJWTSVIDRequest(entry_id=made.id, audience=["a"]))


async def test_replayed_evidence_is_refused(operator, node, clock):
    made = await create_one(operator, evidence_required=True)
    saw = evidence(clock)
    assert (await sign(node, made.id, saw)).status.code == 0
    again = await sign(node, made.id, saw)
    assert (again.status.code, again.status.message) == (7, "evidence.id: was used before")


async def test_malformed_evidence_is_named(operator, node, clock):
    made = await create_one(operator)
    saw = evidence(clock)
    saw.ClearField("id")
    result = await sign(node, made.id, saw)
    assert (result.status.code, result.status.message) == (3, "evidence.id: needs 16 bytes")


async def test_a_template_gives_each_workload_its_own_id(operator, node, clock):
    made = await create_one(operator, spiffe_id=None, spiffe_id_template=TEMPLATE)
    for user in ("ann", "bob"):
        saw = evidence(clock, "unix:uid:1000", f"unix:user:{user}")
        svid = (await sign(node, made.id, saw)).svid
        assert svid.id.path == f"/u/{user}"
        assert (
            str(x509svid.spiffe_id_of(x509.load_der_x509_certificate(svid.cert_chain[0])))
            == f"spiffe://example.org/u/{user}"
        )
    saw = evidence(clock, "unix:uid:1000", "unix:user:ann")
    request = svid_pb2.NewJWTSVIDRequest(entry_id=made.id, audience=["a"], evidence=saw)
    token = (await node.NewJWTSVID(request)).svid.token
    assert str(JwtSvid.parse_unverified(token, ["a"]).spiffe_id) == "spiffe://example.org/u/ann"


async def test_a_template_gives_nothing_for_a_value_that_is_no_segment(operator, node, clock):
    made = await create_one(operator, spiffe_id=None, spiffe_id_template=TEMPLATE)
    for value in ("a/b", "..", "a%2fb", "é"):
        result = await sign(node, made.id, evidence(clock, "unix:uid:1000", f"unix:user:{value}"))
        assert result.status.code == Code.PERMISSION_DENIED.value[0]
