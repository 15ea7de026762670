# SPDX-License-Identifier: Apache-2.0
"""One entry gives many identities, and no value gives one that the operator did not mean."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spiffekit.errors import SpiffeIdError, TemplateError
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.selector import Selector
from spiffekit.template import MAX_PLACEHOLDERS, MAX_VALUE, Template

CLUSTER = "spiffe://example.org/ns/{k8s:ns}/sa/{k8s:sa}"


def selectors(*texts):
    return frozenset(map(Selector.parse, texts))


def test_values_take_the_place_of_placeholders():
    found = selectors("k8s:ns:shop", "k8s:sa:web", "k8s:pod-name:web-1", "unix:uid:1")
    assert Template.parse(CLUSTER).expand(found) == SpiffeId.parse("spiffe://example.org/ns/shop/sa/web")


def test_a_template_knows_its_parts():
    template = Template.parse(CLUSTER)
    assert template.trust_domain == TrustDomain("example.org")
    assert template.types == {"k8s"}
    assert str(template) == CLUSTER


@pytest.mark.parametrize(
    ("text", "base"),
    [
        ("spiffe://example.org/ns/shop/{k8s:sa}/x", "spiffe://example.org/ns/shop"),
        ("spiffe://example.org/{k8s:sa}", "spiffe://example.org"),
    ],
)
def test_what_stands_before_the_first_placeholder_is_its_base(text, base):
    assert str(Template.parse(text).base) == base


def test_a_kind_may_have_colons():
    template = Template.parse("spiffe://example.org/app/{docker:label:org.example/app}")
    found = selectors("docker:label:org.example/app:shop")
    assert template.expand(found).path == "/app/shop"


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (["k8s:ns:shop"], "has no value"),
        (["k8s:ns:shop", "k8s:sa:"[:-1] + ":web", "k8s:sa:other"], "has 2 values"),
        (["k8s:ns:shop", "docker:sa:web"], "has no value"),
        (["k8s:ns:shop", "k8s:sa:a/b"], "is no path segment"),
        (["k8s:ns:shop", "k8s:sa:.."], "is no path segment"),
        (["k8s:ns:shop", "k8s:sa:."], "is no path segment"),
        (["k8s:ns:shop", "k8s:sa:a%2eb"], "is no path segment"),
        (["k8s:ns:shop", "k8s:sa:é"], "is no path segment"),
        (["k8s:ns:shop", "k8s:sa:a b"], "is no path segment"),
        (["k8s:ns:shop", "k8s:sa:" + "a" * (MAX_VALUE + 1)], "is no path segment"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_value_that_is_missing_ambiguous_or_unfit_gives_no_identity(found, why):
    with pytest.raises(TemplateError, match=why):
        Template.parse(CLUSTER).expand(selectors(*found))


def test_a_value_of_full_length_is_taken():
    found = selectors("k8s:ns:shop", "k8s:sa:" + "a" * MAX_VALUE)
    assert Template.parse(CLUSTER).expand(found).path.endswith("a" * MAX_VALUE)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("https://example.org/{k8s:ns}", SpiffeIdError),
        ("spiffe://Example.org/{k8s:ns}", SpiffeIdError),
        ("spiffe://example.org/a//{k8s:ns}", SpiffeIdError),
        ("spiffe://example.org/../{k8s:ns}", SpiffeIdError),
        ("spiffe://example.org/{k8s:ns}/", SpiffeIdError),
        ("spiffe://example.org/é/{k8s:ns}", SpiffeIdError),
        ("spiffe://example.org/plain", TemplateError),
        ("spiffe://example.org", TemplateError),
        ("spiffe://example.org/a-{k8s:ns}", TemplateError),
        ("spiffe://example.org/{k8s:ns}{k8s:sa}", TemplateError),
        ("spiffe://example.org/{k8s}", TemplateError),
        ("spiffe://example.org/{}", TemplateError),
        ("spiffe://example.org/{k8s:ns", TemplateError),
        ("spiffe://example.org/{script:declared:path}", TemplateError),
        ("spiffe://example.org" + "/{k8s:ns}" * (MAX_PLACEHOLDERS + 1), TemplateError),
    ],
)
def test_a_malformed_template_is_refused(text, error):
    with pytest.raises(error):
        Template.parse(text)


def test_an_id_that_grows_too_long_is_refused():
    template = Template.parse("spiffe://example.org/" + "a" * 1990 + "/{k8s:ns}")
    with pytest.raises(SpiffeIdError, match="longer than"):
        template.expand(selectors("k8s:ns:" + "b" * 100))


@settings(deadline=None)
@given(st.text(max_size=40))
def test_whatever_the_value_the_id_keeps_its_shape(value):
    template = Template.parse("spiffe://example.org/ns/{k8s:ns}/end")
    try:
        spiffe_id = template.expand(frozenset({Selector("k8s", f"ns:{value}")}))
    except ValueError:
        return
    assert spiffe_id.path.split("/") == ["", "ns", value, "end"]
