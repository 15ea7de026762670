# SPDX-License-Identifier: Apache-2.0
"""A path or a URL has one spelling, and lies where its text says."""

import posixpath
import string
from urllib.parse import unquote, urljoin, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spiffekit.delegation.resources import MAX_BYTES, below, path, url
from spiffekit.errors import ConstraintError

pieces = st.sampled_from(
    ["/", "//", ".", "..", "a", "b", "srv", "%2e", "%2F", "%25", "%5c", "%C3%A9", ";", "?", "#", "@",  ":",
     "\\", "\n", "\0", " ", "\uff0e", "\uff0f", "\u2025", "é", "https://a.example", "A"]
)  # fmt: skip
spellings = st.lists(pieces, max_size=8).map("".join)


def of(form, value):
    try:
        return form(value)
    except ConstraintError:
        return None


@settings(max_examples=500, deadline=None)
@given(root=spellings, rest=spellings)
def test_a_path_below_another_is_there_however_it_is_resolved(root, rest):
    root, found = of(path, "/" + root), of(path, f"/{root}{rest}")
    if root and found and below(found, root):
        assert posixpath.normpath(found) == found
        assert posixpath.commonpath([root, posixpath.normpath(found)]) == root


@settings(max_examples=500, deadline=None)
@given(root=spellings, rest=spellings)
def test_a_url_below_another_is_there_however_it_is_read(root, rest):
    root, found = of(url, "https://a.example/" + root), of(url, f"https://a.example/{root}{rest}")
    if root and found and below(found[0], root[0]):
        read = urlsplit(found[0])
        assert (read.scheme, read.netloc, read.username, read.fragment) == ("https", "a.example", None, "")
        for reading in (found[0], urljoin("https://evil.example/x/", found[0]), unquote(found[0])):
            assert posixpath.normpath(reading[8:]).startswith(root[0][8:].rstrip("/").partition("%")[0])


def test_every_character_of_a_url_is_one_that_nothing_rewrites():
    allowed = set(string.ascii_letters + string.digits + "._~!$&'()*+,=:@-/?")
    for code in range(0x250):
        character = chr(code)
        assert (of(url, f"https://a/x{character}y") is not None) is (character in allowed), hex(code)


def test_what_is_encoded_is_never_structure():
    structure = {ord(character) for character in "./\\%"} | set(range(0x20)) | {0x7F}
    for code in range(256):
        for spelling in (f"%{code:02x}", f"%{code:02X}"):
            assert (of(url, f"https://a/{spelling}") is None) is (code in structure), spelling


@pytest.mark.parametrize(
    "good", ["/", "/a", "/a/b", "/a b/.c", "/...", "/é", "/a%2f", "/-", "/" + "a" * (MAX_BYTES - 1)]
)
def test_a_path_with_one_spelling_is_taken_as_it_is(good):
    assert path(good) == good


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("https://a/", ("https://a/", "")),
        ("http://a-b.example:8080/x/?q=/../;#"[:-1], ("http://a-b.example:8080/x/", "?q=/../;")),
        ("https://1.2.3.4/a:b@c?", ("https://1.2.3.4/a:b@c", "?")),
    ],
)
def test_a_url_comes_apart_at_its_query(given, found):
    assert url(given) == found


@pytest.mark.parametrize("form", [path, url])
@pytest.mark.parametrize(
    "bad", [None, 1, "", [], "\ud800", "/" + "a" * MAX_BYTES, "https://a/" + "a" * MAX_BYTES]
)
def test_what_is_no_name_is_refused(form, bad):
    with pytest.raises(ConstraintError):
        form(bad)


def test_what_begins_alike_is_not_below():
    assert below("/srv/a", "/srv")
    assert below("/srv", "/srv")
    assert below("/srv", "/")
    assert not below("/srvx", "/srv")
    assert not below("/", "/srv")
    assert below("https://a/v1/x", "https://a/v1/")
    assert not below("https://a/v1", "https://a/v1/")
