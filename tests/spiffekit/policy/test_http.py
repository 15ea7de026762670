# SPDX-License-Identifier: Apache-2.0
"""HTTP requests as policy sees them: each path has one spelling, and servers read it in one way."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiffekit.errors import PolicyError
from spiffekit.policy import Http
from spiffekit.policy.request import HTTP, MAX_TARGET, TOOL
from tests.spiffekit.policy.asked import decide

PLAIN = [
    "/",
    "/invoices",
    "/invoices/",
    "/v1/invoices/7/lines.json",
    "/~alice/@me/a:b/a,b/it's(1)!$&*+=",
    "/caf%C3%A9/a%20b/a%2Bb",
    "/...",
    "/.well-known/x",
]
TWISTED = {
    "no slash": "invoices",
    "nothing": "",
    "the whole server": "*",
    "an authority": "example.org:443",
    "a URL": "https://example.org/admin",
    "two slashes": "//admin",
    "two slashes within": "/a//admin",
    "two slashes at the end": "/admin//",
    "a dot": "/./admin",
    "two dots": "/public/../admin",
    "two dots at the end": "/public/..",
    "encoded dots": "/public/%2E%2E/admin",
    "encoded dots, lower case": "/public/%2e%2e/admin",
    "one encoded dot": "/public/.%2E/admin",
    "an encoded slash": "/public%2Fadmin",
    "an encoded backslash": "/public%5C..%5Cadmin",
    "a backslash": "/public\\..\\admin",
    "a parameter": "/public;/admin",
    "dots with a parameter": "/public/..;/admin",
    "an encoded semicolon": "/public/..%3B/admin",
    "a letter that needs no encoding": "/%61dmin",
    "encoded twice": "/%2561dmin",
    "an encoded per cent": "/a%25",
    "an encoded question mark": "/admin%3Fx",
    "an encoded fragment": "/admin%23x",
    "a fragment": "/admin#x",
    "an encoded null": "/admin%00",
    "an encoded newline": "/admin%0A",
    "an encoded delete": "/admin%7F",
    "a newline": "/admin\n",
    "a space": "/admin x",
    "half an encoding": "/admin%2",
    "no encoding": "/admin%zz",
    "hexadecimal in lower case": "/caf%c3%a9",
    "an overlong dot": "/%C0%AE%C0%AE/admin",
    "half a character": "/%C3",
    "a character that is not ASCII": "/é",
    "too long": "/" + "a" * MAX_TARGET,
}


@pytest.mark.parametrize("path", PLAIN)
def test_a_path_with_one_spelling_stays_as_it_is_and_loses_its_query(path):
    assert Http.parse("GET", path) == Http(method="GET", path=path)
    assert Http.parse("DELETE", f"{path}?a=/../&b=%2e#?") == Http(method="DELETE", path=path)


@pytest.mark.parametrize("target", TWISTED.values(), ids=TWISTED)
def test_a_path_that_can_be_read_in_two_ways_is_refused_and_never_repaired(target):
    with pytest.raises(PolicyError, match=r"^path: "):
        Http.parse("GET", target)


@pytest.mark.parametrize("method", ["", "get", "GET ", "GET\n", "G\0T", "-GET", "A" * 33, "GÉT"])
def test_a_method_is_a_word_in_upper_case(method):
    with pytest.raises(PolicyError, match=r"^method: "):
        Http.parse(method, "/")


@given(st.text(alphabet="/.%2EFef5Cc;\\a?", max_size=12))
def test_no_twist_hides_two_dots_or_another_slash(text):
    try:
        path = Http.parse("GET", f"/{text}").path
    except PolicyError:
        return
    assert "//" not in path
    assert not {".", ".."} & set(path.split("/"))
    assert not {";", "\\"} & set(path)
    assert not {"%2E", "%2F", "%5C", "%25", "%3B"} & {path[at : at + 3].upper() for at in range(len(path))}


def asks(method, path, name="invoices"):
    return {"action": HTTP, "kind": "Service", "name": name, "http": Http(method=method, path=path)}


def test_policy_sees_service_method_and_path():
    text = (
        'permit(principal, action == Action::"http.request", resource == Service::"invoices")'
        ' when { context.http.method == "GET" && context.http.path like "/v1/invoices/*" };'
    )
    assert decide(text, **asks("GET", "/v1/invoices/7")).allowed
    assert not decide(text, **asks("POST", "/v1/invoices/7")).allowed
    assert not decide(text, **asks("GET", "/v1/payments/7")).allowed
    assert not decide(text, **asks("GET", "/v1/invoices/7", "payments")).allowed


@pytest.mark.parametrize(
    "asked",
    [
        {**asks("GET", "/"), "kind": "Tool"},
        {**asks("GET", "/"), "action": TOOL},
        {**asks("GET", "/"), "http": None},
        {**asks("GET", "/"), "kind": "Tool", "action": TOOL},
    ],
    ids=str,
)
def test_an_http_request_is_about_a_service_and_nothing_else(asked):
    assert not decide("permit(principal, action, resource);", **asked).allowed
