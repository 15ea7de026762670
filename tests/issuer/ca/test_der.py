# SPDX-License-Identifier: Apache-2.0
"""What the DER writer writes is what the library's parsers and builders say it has to be."""

from datetime import UTC, datetime

import pytest
from cryptography import x509
from hypothesis import example, given
from hypothesis import strategies as st

from issuer.ca import der


@given(st.binary(max_size=70_000))
@example(b"")
@example(b"x" * 0x7F)
@example(b"x" * 0x80)
@example(b"x" * 0xFF)
@example(b"x" * 0x100)
@example(b"x" * 0xFFFF)
@example(b"x" * 0x10000)
def test_a_length_takes_as_few_octets_as_it_can(body):
    """X.690 §8.1.3 and §10.1."""
    encoded = der.octet_string(body)
    assert encoded[0] == 0x04
    assert encoded.endswith(body)
    header = encoded[1 : len(encoded) - len(body)]
    if len(body) < 0x80:
        assert header == bytes((len(body),))
    else:
        assert header[0] == 0x80 | (len(header) - 1)
        assert header[1] != 0, "no leading zero"
        assert int.from_bytes(header[1:]) == len(body)


@given(st.integers(0, 2**200))
@example(0)
@example(127)
@example(128)
@example(2**127 - 1)
@example(2**127)
@example(2**128 - 1)
def test_an_integer_is_positive_and_minimal(value):
    """X.690 §8.3: the first nine bits are neither all zero nor all one."""
    encoded = der.integer(value)
    tag, size, *body = encoded
    assert tag == 0x02
    assert size == len(body)
    assert int.from_bytes(body, signed=True) == value
    assert len(body) == 1 or body[0] != 0 or body[1] & 0x80


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=12), st.integers(0, 2), st.integers(0, 39))
@example([840, 113549, 1, 1, 11], 1, 2)
@example([127, 128, 16383, 16384, 0], 2, 5)
@example([3], 2, 999)
def test_an_object_identifier_is_the_librarys(arcs, first, second):
    dotted = ".".join(map(str, (first, second, *arcs)))
    # In a certificate policy the library writes any identifier that it is given.
    policies = x509.CertificatePolicies([x509.PolicyInformation(x509.ObjectIdentifier(dotted), None)])
    assert policies.public_bytes() == der.sequence(der.sequence(der.oid(dotted)))


@pytest.mark.parametrize(
    ("instant", "encoded"),
    [
        (datetime(1970, 1, 1, tzinfo=UTC), b"\x17\x0d700101000000Z"),
        (datetime(2026, 11, 24, 1, 2, 3, 999_999, tzinfo=UTC), b"\x17\x0d261124010203Z"),
        (datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC), b"\x17\x0d491231235959Z"),
        (datetime(2050, 1, 1, tzinfo=UTC), b"\x18\x0f20500101000000Z"),
        (datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC), b"\x18\x0f99991231235959Z"),
    ],
)
def test_instants_change_their_form_in_2050(instant, encoded):
    """RFC 5280 §4.1.2.5."""
    assert der.time(instant) == encoded


def test_a_bit_string_says_how_many_bits_are_padding():
    assert der.bit_string(b"\x06", 1) == b"\x03\x02\x01\x06"
    assert der.bit_string(b"\xab\xcd") == b"\x03\x03\x00\xab\xcd"


def test_parts_are_concatenated():
    assert der.sequence() == b"\x30\x00"
    assert der.sequence(der.TRUE, der.integer(5)) == b"\x30\x06\x01\x01\xff\x02\x01\x05"
