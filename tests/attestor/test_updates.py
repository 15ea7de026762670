# SPDX-License-Identifier: Apache-2.0
"""What the issuer says becomes our values; what is malformed is withheld and harms nothing else."""

from datetime import UTC, datetime

import pytest

from attestor.cache import Entry
from attestor.policies import SaidPolicies
from attestor.revocation import Said
from attestor.updates import MAX_NAME, Update, entry_from_proto, update_from_proto
from spiffekit.errors import SelectorError, SpiffeIdError, TemplateError
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.selector import Selector
from spiffekit.template import Template
from spiffekit.testing import TestCA
from spiffekit.wire.convert import bundle_to_proto
from spiffekit.wire.pb.issuer.v1 import updates_pb2
from spiffekit.wire.pb.spire.api import types_pb2

CA = TestCA("example.org")


def message(**changes):
    fields = {
        "id": "e1",
        "spiffe_id": types_pb2.SPIFFEID(trust_domain="example.org", path="/web"),
        "parent_id": types_pb2.SPIFFEID(trust_domain="example.org", path="/node"),
        "selectors": [types_pb2.Selector(type="unix", value="uid:1")],
    }
    return types_pb2.Entry(**fields | changes)


def test_an_entry_has_all_that_was_said():
    attributes = types_pb2.Entry.AdditionalAttributes(jwt_svid_include_jti=True)
    assert entry_from_proto(
        message(
            selectors=[
                types_pb2.Selector(type="unix", value="uid:1"),
                types_pb2.Selector(type="k8s", value="ns:a:b"),
            ],
            hint="internal",
            federates_with=["b.org", "a.org"],
            revision_number=7,
            created_at=1767225600,
            expires_at=1767225601,
            store_svid=True,
            additional_attributes=attributes,
        )
    ) == Entry(
        id="e1",
        spiffe_id=SpiffeId.parse("spiffe://example.org/web"),
        selectors=frozenset({Selector("unix", "uid:1"), Selector("k8s", "ns:a:b")}),
        hint="internal",
        federates_with=(TrustDomain("b.org"), TrustDomain("a.org")),
        revision=7,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        expires_at=datetime(2026, 1, 1, 0, 0, 1, tzinfo=UTC),
        store_svid=True,
        jwt_svid_include_jti=True,
    )


def test_what_was_not_said_has_its_default():
    assert entry_from_proto(message()) == Entry(
        id="e1",
        spiffe_id=SpiffeId.parse("spiffe://example.org/web"),
        selectors=frozenset({Selector("unix", "uid:1")}),
        created_at=datetime(1970, 1, 1, tzinfo=UTC),
    )


@pytest.mark.parametrize("name", ["evidence_required", "svid_per_process"])
def test_an_entry_that_is_for_one_process_needs_evidence_of_it(name):
    assert entry_from_proto(message(**{name: True})).needs_evidence
    assert not entry_from_proto(message()).needs_evidence


def test_an_entry_with_a_template_has_it_instead_of_an_id():
    template = "spiffe://example.org/ns/{k8s:ns}/web"
    found = entry_from_proto(message(spiffe_id=None, spiffe_id_template=template))
    assert found.template == Template.parse(template)
    assert found.spiffe_id == found.template.base
    assert found.needs_evidence


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"id": ""}, ValueError),
        ({"selectors": []}, SelectorError),
        ({"spiffe_id_template": "spiffe://example.org/no/placeholder"}, TemplateError),
        ({"selectors": [types_pb2.Selector(value="uid:1")]}, SelectorError),
        ({"spiffe_id": types_pb2.SPIFFEID(trust_domain="example.org", path="/../x")}, SpiffeIdError),
        ({"spiffe_id": types_pb2.SPIFFEID()}, SpiffeIdError),
        ({"federates_with": ["Not A Name"]}, SpiffeIdError),
        ({"created_at": -1}, ValueError),
        ({"expires_at": 2**62}, ValueError),
    ],
    ids=["ID", "no selectors", "template", "selector", "path", "no ID", "others", "too early", "too late"],
)  # fmt: skip
def test_a_malformed_entry_is_refused(changes, error):
    with pytest.raises(error):
        entry_from_proto(message(**changes))


def test_an_update_has_all_that_was_said():
    assert update_from_proto(
        updates_pb2.WatchResponse(
            revision=3,
            epoch="e",
            snapshot=True,
            more=True,
            entries=[message()],
            removed_entry_ids=["gone"],
            bundles=[bundle_to_proto(CA.bundle)],
            removed_bundles=["other.org"],
            tainted_x509_authorities=["0f"],
        )
    ) == Update(
        revision=3,
        epoch="e",
        snapshot=True,
        more=True,
        entries=(entry_from_proto(message()),),
        removed=("gone",),
        bundles=(CA.bundle,),
        removed_bundles=(TrustDomain("other.org"),),
        tainted=("0f",),
        heartbeat=False,
    )


def test_a_heartbeat_says_how_far_we_are():
    update = update_from_proto(updates_pb2.WatchResponse(revision=9, epoch="e", heartbeat=True))
    assert (update.heartbeat, update.revision, update.epoch, update.entries) == (True, 9, "e", ())


def test_what_is_taken_back_comes_as_it_was_said():
    heard = updates_pb2.Revocations(status="token", crls=[b"one", b"two"])
    update = update_from_proto(updates_pb2.WatchResponse(heartbeat=True, revocations=heard))
    assert update.revocations == Said("token", (b"one", b"two"))
    assert update_from_proto(updates_pb2.WatchResponse(heartbeat=True)).revocations is None


def test_policies_come_as_they_were_said():
    heard = updates_pb2.Policies(number=7, bundle="token")
    update = update_from_proto(updates_pb2.WatchResponse(heartbeat=True, policies=heard))
    assert update.policies == SaidPolicies(7, "token")
    assert update_from_proto(updates_pb2.WatchResponse(heartbeat=True)).policies is None


BAD_BUNDLE = types_pb2.Bundle(trust_domain="bad.org", jwt_authorities=[types_pb2.JWTKey()])


@pytest.mark.parametrize("bad", [{"selectors": []}, {"spiffe_id": None}, {"expires_at": 2**62}])
def test_a_malformed_entry_is_withheld_and_the_others_are_not(bad, caplog):
    update = update_from_proto(
        updates_pb2.WatchResponse(
            entries=[message(id="a"), message(id="bad", **bad), message(id="b")], removed_entry_ids=["gone"]
        )
    )
    assert [entry.id for entry in update.entries] == ["a", "b"]
    assert update.removed == ("gone", "bad"), "an earlier form of it does not count any longer"
    (record,) = caplog.records
    assert (record.count, record.first) == (1, "bad")


def test_of_two_entries_of_one_name_none_counts_if_one_is_malformed():
    update = update_from_proto(
        updates_pb2.WatchResponse(entries=[message(), message(selectors=[]), message(hint="x")])
    )
    assert (update.entries, update.removed) == ((), ("e1",))


def test_however_much_is_malformed_the_log_gets_one_line(caplog):
    entries = [message(id=f"{number}-{'x' * 200}", selectors=[]) for number in range(1000)]
    update = update_from_proto(updates_pb2.WatchResponse(entries=entries))
    assert len(update.removed) == 1000
    (record,) = caplog.records
    assert (record.count, len(record.first)) == (1000, MAX_NAME)
    assert "has no selectors" in record.reason


def test_a_malformed_bundle_is_withheld_and_the_others_are_not():
    update = update_from_proto(
        updates_pb2.WatchResponse(
            bundles=[BAD_BUNDLE, types_pb2.Bundle(), bundle_to_proto(CA.bundle)],
            removed_bundles=["gone.org", "", "Not A Name"],
        )
    )
    assert update.bundles == (CA.bundle,)
    assert update.removed_bundles == (TrustDomain("gone.org"), TrustDomain("bad.org"))
