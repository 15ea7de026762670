# SPDX-License-Identifier: Apache-2.0
"""Endpoint addresses (Workload_Endpoint §4) and peer predicates."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiffekit.errors import AddressError
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.workload import (
    EndpointAddress,
    any_of,
    below,
    endpoint_address,
    exact,
    member_of,
)

GOOD = {
    "unix:///run/a.sock": "unix:/run/a.sock",
    "unix:/run/a.sock": "unix:/run/a.sock",
    "tcp://127.0.0.1:8000": "ipv4:127.0.0.1:8000",
    "tcp://[::1]:8000": "ipv6:[::1]:8000",
}
BAD = [
    "",
    "/run/a.sock",
    "a.sock",
    "unix:",
    "unix://",
    "unix:a.sock",
    "unix://host/a.sock",
    "unix:///a?x=1",
    "unix:///a#f",
    "unix://u@/a",
    "tcp:opaque",
    "tcp://",
    "tcp://localhost:80",
    "tcp://1.2.3.4",
    "tcp://1.2.3.256:80",
    "tcp://01.2.3.4:80",
    "tcp://[1::2::3]:80",
    "tcp://[::1%eth0]:80",
    "tcp://1.2.3.4:5/p",
    "tcp://1.2.3.4:5?x",
    "tcp://1.2.3.4:5#f",
    "tcp://u@1.2.3.4:5",
    "http://x",
    "npipe:x",
    "unix:///a\n",
    "unix:///a\x00",
    "tcp://1.2.3.4:5\n",
    "tcp://1.2.3.4:0",
    "tcp://1.2.3.4:65536",
]


@pytest.mark.requirement("WEP-10", "WEP-12", "WEP-13", "WEP-14")
@pytest.mark.parametrize("text", GOOD)
def test_a_good_address_becomes_a_target(text: str) -> None:
    assert EndpointAddress.parse(text).target == GOOD[text]


@pytest.mark.requirement("WEP-10", "WEP-11", "WEP-12", "WEP-13", "WEP-14")
@pytest.mark.parametrize("text", BAD)
def test_a_bad_address_is_refused(text: str) -> None:
    with pytest.raises(AddressError, match="invalid endpoint address"):
        EndpointAddress.parse(text)


@given(st.text())
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        target = EndpointAddress.parse(text).target
    except AddressError:
        return
    assert target.startswith(("unix:/", "ipv4:", "ipv6:["))


@pytest.mark.requirement("WEP-09")
def test_the_argument_wins_over_the_variable_and_one_is_needed() -> None:
    environment = {"SPIFFE_ENDPOINT_SOCKET": "unix:///env"}
    assert endpoint_address(environment=environment).target == "unix:/env"
    assert endpoint_address("unix:///arg", environment=environment).target == "unix:/arg"
    with pytest.raises(AddressError, match="set SPIFFE_ENDPOINT_SOCKET"):
        endpoint_address(environment={})


@pytest.mark.requirement("WEP-29")
def test_no_other_variable_is_looked_at_and_there_is_no_default() -> None:
    others = ("SPIFFE_SOCKET", "spiffe_endpoint_socket", "SPIFFE_ENDPOINT_SOCKETS", "SPIRE_AGENT_SOCKET")
    with pytest.raises(AddressError, match="no endpoint address"):
        endpoint_address(environment=dict.fromkeys(others, "unix:///run/api.sock"))


def test_predicates_accept_on_segment_boundaries_and_an_empty_choice_denies() -> None:
    web, one, two = (SpiffeId.parse(f"spiffe://example.org/{path}") for path in ("web", "web/1", "web2"))
    assert [exact(web)(peer) for peer in (web, one, two)] == [True, False, False]
    assert [below(web)(peer) for peer in (web, one, two)] == [True, True, False]
    assert member_of(TrustDomain.parse("example.org"))(two)
    assert not member_of(TrustDomain.parse("other.org"))(two)
    assert any_of(exact(one), exact(two))(two)
    assert not any_of()(web)
