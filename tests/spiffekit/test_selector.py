# SPDX-License-Identifier: Apache-2.0
"""Selectors."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiffekit.errors import SelectorError
from spiffekit.selector import MAX_TYPE_BYTES, MAX_VALUE_BYTES, Selector


def test_the_value_may_hold_further_colons():
    selector = Selector.parse("unix:path:/usr/bin/env:x")
    assert (selector.type, selector.value) == ("unix", "path:/usr/bin/env:x")
    assert str(selector) == "unix:path:/usr/bin/env:x"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "selector '' is not of the form type:value"),
        ("unix", "selector 'unix' is not of the form type:value"),
        (":value", "invalid selector type ''"),
        ("un ix:value", "invalid selector type 'un ix'"),
        ("unix\n:value", "invalid selector type 'unix\\n'"),
        ("\u0131nix:value", "invalid selector type '\u0131nix'"),
        ("unix:", "selector of type 'unix' has no value"),
        ("unix:a\nb", "selector of type 'unix' has a control character"),
        ("unix:a\x00", "selector of type 'unix' has a control character"),
        ("unix:a\x7f", "selector of type 'unix' has a control character"),
        ("unix:a\x1f", "selector of type 'unix' has a control character"),
        ("unix:path:/tmp/\udcff", "selector of type 'unix' cannot be written as UTF-8"),
        ("t" * 65 + ":v", f"invalid selector type '{'t' * 64}'"),
        ("unix:" + "v" * 8193, "selector of type 'unix' is longer than 8192 bytes"),
    ],
)
def test_what_is_no_selector_is_refused(text, message):
    with pytest.raises(SelectorError) as refusal:
        Selector.parse(text)
    assert str(refusal.value) == message


@pytest.mark.parametrize("value", [" ", "a b", "\u00e9", ":", "path:/opt/a~b"])
def test_a_value_may_be_anything_that_can_be_shown(value):
    assert Selector("unix", value).value == value


def test_the_limits_are_limits_of_bytes():
    assert Selector("t" * MAX_TYPE_BYTES, "\u00e9" * (MAX_VALUE_BYTES // 2))
    with pytest.raises(SelectorError, match="longer than"):
        Selector("t", "\u00e9" * (MAX_VALUE_BYTES // 2 + 1))


def test_selectors_are_values():
    assert Selector("a", "b") == Selector.parse("a:b")
    assert Selector("a", "b") != "a:b"
    assert len({Selector("a", "b"), Selector("a", "b")}) == 1
    assert sorted([Selector("b", "a"), Selector("a", "b")]) == [Selector("a", "b"), Selector("b", "a")]


@given(st.text(max_size=60))
def test_whatever_parses_is_written_back_as_it_was(text):
    for candidate in (text, f"unix:{text}"):
        try:
            assert str(Selector.parse(candidate)) == candidate
        except SelectorError:
            continue
