# SPDX-License-Identifier: Apache-2.0
"""SPIFFE IDs and trust domains (SPIFFE-ID §2)."""

import pickle
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiffekit.errors import SpiffeIdError
from spiffekit.id import MAX_ID_BYTES, MAX_TRUST_DOMAIN_BYTES, SpiffeId, TrustDomain
from tests.vectors import load

VECTORS = load("spiffe_ids")

GOOD = {
    "without path": pytest.mark.requirement("ID-15"),
    "path": pytest.mark.requirement("ID-16", "ID-17"),
    "trust domain": pytest.mark.requirement("ID-08"),
    "looks like an address": pytest.mark.requirement("ID-10", "ID-11"),
    "no rule of DNS": pytest.mark.requirement("ID-08", "ID-11"),
    "no dot segment": pytest.mark.requirement("ID-14"),
    "longest": pytest.mark.requirement("ID-18", "ID-20"),
}
BAD = {
    "empty": pytest.mark.requirement("ID-01"),
    "scheme": pytest.mark.requirement("ID-01"),
    "scheme in upper case": pytest.mark.requirement("ID-01"),
    "no trust domain": pytest.mark.requirement("ID-02"),
    "query": pytest.mark.requirement("ID-03"),
    "fragment": pytest.mark.requirement("ID-04"),
    "user information": pytest.mark.requirement("ID-05"),
    "port": pytest.mark.requirement("ID-06"),
    "trust domain in upper case": pytest.mark.requirement("ID-07"),
    "trust domain": pytest.mark.requirement("ID-08"),
    "bracketed address": pytest.mark.requirement("ID-10"),
    "percent in trust domain": pytest.mark.requirement("ID-09"),
    "percent in path": pytest.mark.requirement("ID-12"),
    "empty segment": pytest.mark.requirement("ID-13"),
    "dot segment": pytest.mark.requirement("ID-14"),
    "trailing slash": pytest.mark.requirement("ID-15"),
    "path": pytest.mark.requirement("ID-16"),
    "too long": pytest.mark.requirement("ID-19"),
    "trust domain too long": pytest.mark.requirement("ID-20"),
}


def cases(kind, marks):
    return [
        pytest.param(vector, marks=marks[vector["rule"]], id=f"{vector['rule']}-{vector['id'][:40]!a}")
        for vector in VECTORS[kind]
    ]


@pytest.mark.parametrize("vector", cases("good", GOOD))
def test_a_good_id_is_kept_as_it_is_written(vector):
    assert str(SpiffeId.parse(vector["id"])) == vector["id"]


@pytest.mark.parametrize("vector", cases("bad", BAD))
def test_a_bad_id_is_refused_never_repaired(vector):
    """CVE-2021-27099: dots, slashes and percent signs were normalised."""
    with pytest.raises(SpiffeIdError) as refusal:
        SpiffeId.parse(vector["id"])
    if vector["message"]:
        assert str(refusal.value) == vector["message"]


def test_a_refusal_names_the_part_and_the_value():
    with pytest.raises(SpiffeIdError) as refusal:
        SpiffeId.parse("spiffe://Example.org/a")
    assert str(refusal.value) == "invalid trust domain 'Example.org': use only a-z, 0-9, '.', '-' and '_'"
    with pytest.raises(SpiffeIdError) as refusal:
        SpiffeId.parse("spiffe://td/a/b~c")
    assert str(refusal.value) == "invalid path segment 'b~c': use only a-z, A-Z, 0-9, '.', '-' and '_'"


def test_a_refusal_repeats_no_more_than_80_characters():
    with pytest.raises(SpiffeIdError) as refusal:
        SpiffeId.parse("http://" + "a" * 100_000)
    assert len(str(refusal.value)) < 150


@pytest.mark.requirement("ID-08", "ID-07")
@pytest.mark.parametrize("code", range(256))
def test_exactly_the_characters_of_the_standard_may_stand_in_a_trust_domain(code):
    text = f"spiffe://td{chr(code)}x/a"
    if chr(code) in string.ascii_lowercase + string.digits + ".-_":
        assert SpiffeId.parse(text).trust_domain == TrustDomain(f"td{chr(code)}x")
    elif chr(code) == "/":
        assert SpiffeId.parse(text).path == "/x/a"
    else:
        with pytest.raises(SpiffeIdError, match="invalid trust domain"):
            SpiffeId.parse(text)


@pytest.mark.requirement("ID-16")
@pytest.mark.parametrize("code", range(256))
def test_exactly_the_characters_of_the_standard_may_stand_in_a_path(code):
    text = f"spiffe://td/a{chr(code)}x"
    if chr(code) in string.ascii_letters + string.digits + ".-_/":
        assert SpiffeId.parse(text).path == f"/a{chr(code)}x"
    else:
        with pytest.raises(SpiffeIdError, match="invalid path segment"):
            SpiffeId.parse(text)


trust_domains = st.text(string.ascii_lowercase + string.digits + ".-_", min_size=1, max_size=255)
segments = st.text(string.ascii_letters + string.digits + ".-_", min_size=1, max_size=20).filter(
    lambda text: text not in (".", "..")
)
paths = st.lists(segments, max_size=10).map(lambda parts: "".join(f"/{part}" for part in parts))
ids = st.builds(SpiffeId, st.builds(TrustDomain, trust_domains), paths)


@given(ids)
def test_an_id_survives_text_and_back(spiffe_id):
    assert SpiffeId.parse(str(spiffe_id)) == spiffe_id


@given(st.text())
def test_whatever_parses_is_written_back_as_it_was(text):
    for candidate in (text, f"spiffe://{text}", f"spiffe://td/{text}"):
        try:
            parsed = SpiffeId.parse(candidate)
        except SpiffeIdError:
            continue
        assert str(parsed) == candidate
        assert candidate.isascii()
        assert len(candidate) <= MAX_ID_BYTES


@pytest.mark.requirement("ID-18", "ID-19")
def test_the_limit_counts_scheme_trust_domain_and_path():
    trust_domain = TrustDomain("t" * MAX_TRUST_DOMAIN_BYTES)
    room = MAX_ID_BYTES - len(str(trust_domain.id))
    assert len(str(SpiffeId(trust_domain, "/" + "a" * (room - 1)))) == MAX_ID_BYTES
    with pytest.raises(SpiffeIdError, match="longer than 2048 bytes"):
        SpiffeId(trust_domain, "/" + "a" * room)


@pytest.mark.requirement("ID-21")
def test_paths_that_differ_in_case_are_different_identities():
    assert SpiffeId.parse("spiffe://td/A") != SpiffeId.parse("spiffe://td/a")


def test_an_id_is_never_equal_to_a_text():
    assert SpiffeId.parse("spiffe://td/a") != "spiffe://td/a"
    assert TrustDomain("td") != "td"


def test_a_path_without_a_slash_in_front_is_refused():
    with pytest.raises(SpiffeIdError, match="path must start with a slash"):
        SpiffeId(TrustDomain("td"), "a")


@pytest.mark.parametrize("text", ["example.org", "spiffe://example.org"])
def test_a_trust_domain_is_named_or_given_by_its_id(text):
    trust_domain = TrustDomain.parse(text)
    assert str(trust_domain) == "example.org"
    assert str(trust_domain.id) == "spiffe://example.org"


@pytest.mark.parametrize(
    "text",
    ["", "spiffe://", "spiffe://td/", "spiffe://td/a", "td/a", "Td", "spiffe://spiffe://td", "td\n", " td"],
)
def test_a_trust_domain_is_nothing_else(text):
    with pytest.raises(SpiffeIdError):
        TrustDomain.parse(text)


def test_values_are_ordered_hashable_and_can_be_pickled():
    a, ab, b = (SpiffeId.parse(f"spiffe://{text}") for text in ("a/z", "a/zz", "b/a"))
    assert sorted([b, ab, a]) == [a, ab, b]
    assert {a, SpiffeId.parse("spiffe://a/z")} == {a}
    assert pickle.loads(pickle.dumps(a)) == a


@pytest.mark.parametrize(
    ("text", "prefix", "below"),
    [
        ("spiffe://td/team/a", "spiffe://td/team/a", True),
        ("spiffe://td/team/a/web", "spiffe://td/team/a", True),
        ("spiffe://td/team/ab", "spiffe://td/team/a", False),
        ("spiffe://td/team", "spiffe://td/team/a", False),
        ("spiffe://td/team", "spiffe://td", True),
        ("spiffe://td", "spiffe://td", True),
        ("spiffe://other/team/a", "spiffe://td/team/a", False),
        ("spiffe://other/team/a", "spiffe://td", False),
    ],
)
def test_below_means_whole_segments_of_the_same_trust_domain(text, prefix, below):
    assert SpiffeId.parse(text).is_below(SpiffeId.parse(prefix)) is below


def test_membership_is_of_the_trust_domain():
    spiffe_id = SpiffeId.parse("spiffe://td/a")
    assert spiffe_id.is_member_of(TrustDomain("td"))
    assert not spiffe_id.is_member_of(TrustDomain("td2"))


def test_another_path_is_judged_like_the_first():
    spiffe_id = SpiffeId.parse("spiffe://td/a")
    assert str(spiffe_id.with_path("/b/c")) == "spiffe://td/b/c"
    with pytest.raises(SpiffeIdError):
        spiffe_id.with_path("/b/../c")
