# SPDX-License-Identifier: Apache-2.0
"""What is exported is what others' schemas say, for every type of event that there is."""

import hashlib
import json

import jsonschema
import ocsf_json_schema
import pytest
from google.protobuf import json_format
from msgspec.structs import replace
from opentelemetry.proto.logs.v1.logs_pb2 import LogsData

from issuer.api.event_types import EVENT_TYPES, event_type
from issuer.governance.audit_export import OCSF_VERSION, to_ocsf, to_otlp
from issuer.model import AgentFacts, CredentialFacts, Outcome, PeerFacts, Severity
from issuer.store.events import encode
from tests.issuer.store.test_events import AT, a_record

TYPES = sorted(
    {*EVENT_TYPES.values(), *(event_type(method, Outcome.DENIED) for method in EVENT_TYPES)}
    | {"policy.put", "agent.owner_missing", "entry.pruned", "node.pruned", "log.gap", "detect.alert"}
    | {f"node.{told}" for told in ("svid_fetched", "svid_refused", "posture_changed", "verified", "started")}
)
NANOSECONDS = 1_767_323_045_678_901_000  # 2026-01-02T03:04:05.678901Z


@pytest.fixture(scope="module")
def schemas():
    return ocsf_json_schema.OcsfJsonSchemaEmbedded(ocsf_json_schema.get_ocsf_schema(version=OCSF_VERSION))


@pytest.fixture(scope="module")
def check(schemas):
    made = {}

    def valid(event):
        uid = event["class_uid"]
        if uid not in made:
            schema = schemas.get_class_schema(class_name=schemas.lookup_class_name_from_uid(class_uid=uid))
            made[uid] = jsonschema.Draft202012Validator(schema)
        errors = [error.message for error in made[uid].iter_errors(event)]
        assert errors == []

    return valid


def leaf(**given):
    return encode(a_record(**given)).leaf(17)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize("subject", ["", "spiffe://example.org/a"])
def test_every_type_of_event_is_what_ocsf_says(check, kind, remote, subject):
    refused = kind.endswith(".refused")
    event = to_ocsf(
        leaf(
            type=kind,
            subject=subject,
            outcome=Outcome.DENIED if refused else Outcome.OK,
            reason="no" if refused else "",
            peer=PeerFacts(ip="192.0.2.1") if remote else None,
            detail={"call": "c"} if remote else {},
        )
    )
    check(event)
    assert event["type_uid"] == event["class_uid"] * 100 + event["activity_id"]
    assert event["message"] == kind


@pytest.mark.parametrize(
    ("exp", "session"), [("", {}), ("2026-01-02T03:04:05Z", {"expiration_time": 1767323045000})]
)
def test_what_a_verifier_made_of_a_peer_is_an_authentication_at_that_verifier(check, exp, session):
    told = {
        "type": "node.verified",
        "subject": "spiffe://example.org/agent/payer",
        "credential": CredentialFacts(kind="x509-svid", serial="4711", exp=exp),
        "detail": {"verifier": "spiffe://example.org/tool"},
    }
    event = to_ocsf(leaf(**told))
    check(event)
    assert (event["type_uid"], event["user"]["uid"]) == (300201, "spiffe://example.org/agent/payer")
    assert event["service"] == {"name": "spiffe://example.org/tool"}
    assert event["session"] == {"uid": "4711", **session}


@pytest.mark.parametrize(("verb", "activity"), [("published", 1), ("updated", 3), ("withdrawn", 4)])
def test_what_happened_to_a_bundle_is_an_activity_that_ocsf_names(check, verb, activity):
    event = to_ocsf(leaf(type=f"bundle.{verb}", subject="example.org"))
    check(event)
    assert (event["class_uid"], event["activity_id"]) == (3004, activity)


def test_an_svid_is_a_ticket_of_its_subject(check):
    exported = leaf(
        credential=CredentialFacts(kind="x509-svid", serial="77", exp="2026-01-02T04:04:05Z"),
        agent=AgentFacts(spiffe_id="spiffe://example.org/a", owner="https://idp|bob"),
        peer=PeerFacts(ip="192.0.2.1"),
    )
    event = to_ocsf(exported)
    check(event)
    assert (event["class_uid"], event["activity_id"], event["status_id"]) == (3002, 3, 1)
    assert event["user"]["uid"] == "spiffe://example.org/a"
    assert event["session"] == {"uid": "77", "expiration_time": 1_767_326_645_000}
    assert event["time"] == NANOSECONDS // 1_000_000
    assert event["metadata"]["sequence"] == 17
    assert event["raw_data"].encode() == exported
    assert event["raw_data_hash"]["value"] == hashlib.sha256(exported).hexdigest()


def test_what_was_refused_says_why(check):
    event = to_ocsf(leaf(type="svid.refused", outcome=Outcome.DENIED, reason="agent is suspended"))
    check(event)
    assert (event["class_uid"], event["status_id"], event["status_detail"]) == (3002, 2, "agent is suspended")
    assert (event["activity_id"], event["activity_name"]) == (99, "refused")
    assert to_ocsf(leaf(type="x.y", outcome=Outcome.FAILED))["status_detail"] == "error"


@pytest.mark.parametrize("severity", Severity)
def test_logs_are_what_opentelemetry_says(severity):
    exported = leaf(severity=severity, peer=PeerFacts(ip="192.0.2.1"), detail={"call": "c"})
    data = json_format.ParseDict(to_otlp([exported, exported]), LogsData())
    (resource,) = data.resource_logs
    (scope,) = resource.scope_logs
    assert len(scope.log_records) == 2
    record = scope.log_records[0]
    assert record.time_unix_nano == NANOSECONDS
    assert record.body.string_value.encode() == exported
    assert record.event_name == "svid.issued"
    assert record.severity_text == severity
    assert record.severity_number == {"info": 9, "warning": 13, "error": 17, "critical": 21}[severity]
    said = {a.key: a.value.string_value or a.value.int_value for a in record.attributes}
    assert said == {
        "audit.v": 1,
        "audit.id": json.loads(exported)["id"],
        "audit.seq": 17,
        "audit.actor": "local:uid=0,pid=1",
        "audit.action": "/s.v1.S/M",
        "audit.resource": "spiffe://example.org/a",
        "audit.outcome.decision": "allow",
        "audit.peer.ip": "192.0.2.1",
    }


def test_the_instant_of_an_event_is_kept():
    assert to_ocsf(encode(replace(a_record(), at=AT)).leaf(1))["time"] == NANOSECONDS // 1_000_000
