# SPDX-License-Identifier: Apache-2.0
"""Requests: the same question has the same key, and the record of one asks it again."""

from datetime import timedelta

import pytest

from spiffekit.policy import Http, Request
from tests.spiffekit.policy.asked import NOW, PAYER, a_request, an_attest

SELECTORS = frozenset({"unix:uid:1", "docker:env:SECRET=hunter2"})
DIFFERENT = [
    a_request(),
    a_request(name="other"),
    a_request(kind="TrustDomain"),
    a_request(action="tool.call"),
    a_request(owner="https://idp.example.org|bob"),
    a_request(team=""),
    a_request(agent_class="treasury", team="payments"),
    a_request(review_overdue=True),
    a_request(at=NOW + timedelta(hours=1)),
    a_request(at=NOW + timedelta(days=1)),
    a_request(attest=an_attest()),
    a_request(attest=an_attest(level=3)),
    a_request(attest=an_attest(node="other")),
    a_request(attest=an_attest(selectors=frozenset())),
    a_request(attest=an_attest(selectors=SELECTORS)),
    a_request(attest=an_attest(image_digest="sha256:a")),
]


HTTP_REQUESTS = [
    a_request(action="http.request", kind="Service", http=http)
    for http in (
        None,
        Http(method="GET", path="/"),
        Http(method="PUT", path="/"),
        Http(method="GET", path="/a"),
    )
]


def test_whatever_policy_can_see_makes_another_key():
    assert len({request.key() for request in DIFFERENT + HTTP_REQUESTS}) == len(DIFFERENT + HTTP_REQUESTS)


def test_what_policy_cannot_see_makes_none():
    assert a_request().key() == a_request(at=NOW + timedelta(minutes=29)).key()
    assert a_request().key() == a_request(at=NOW.astimezone(None)).key()


@pytest.mark.parametrize("request_", DIFFERENT, ids=range(len(DIFFERENT)))
def test_the_record_of_a_request_asks_it_again_but_for_the_selectors(request_):
    (again,), hidden = Request.replayed(request_.recorded(), PAYER, request_.at)
    had = request_.attest is not None and request_.attest.selectors is not None
    assert hidden is had
    if not had:
        assert again == request_
        assert again.key() == request_.key()
    assert again.recorded() | {"selectors": had} == request_.recorded() | {"selectors": had}


def test_no_selector_and_no_path_is_recorded():
    assert "hunter2" not in str(a_request(attest=an_attest(selectors=SELECTORS)).recorded())
    assert "hunter2" not in str(a_request(http=Http(method="GET", path="/hunter2")).recorded())


def test_a_record_may_name_several_resources():
    recorded = a_request().recorded() | {"resources": [["Audience", "bank"], ["Audience", "other"]]}
    assert Request.replayed(recorded, PAYER, NOW) == ([a_request(), a_request(name="other")], False)
    with pytest.raises(ValueError, match="not a recorded request"):
        Request.replayed(recorded | {"resources": [["Audience"]]}, PAYER, NOW)


@pytest.mark.parametrize("broken", [{}, {"resources": 1}, {"node": "n"}, []])
def test_what_is_no_record_is_refused(broken):
    with pytest.raises(ValueError, match="not a recorded request"):
        Request.replayed(broken, PAYER, NOW)
