# SPDX-License-Identifier: Apache-2.0
"""The address of a Workload API endpoint (Workload_Endpoint §4)."""

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from spiffekit.errors import AddressError
from spiffekit.wire.workload_api import ENDPOINT_VARIABLE

_TCP: Final = re.compile(r"(?:\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<v4>[0-9.]+)):(?P<port>[0-9]{1,5})")
_LARGEST_PORT: Final = 65535


@dataclass(frozen=True, slots=True)
class EndpointAddress:
    """A well-formed endpoint address; `target` is its spelling as a gRPC target."""

    target: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``unix:///absolute/path`` or ``tcp://IP:PORT``; nothing is trimmed or decoded.

        Raises:
            AddressError: `text` breaks Workload_Endpoint §4; the message names the rule.
        """
        if not text.isascii() or not text.isprintable() or " " in text:
            raise _invalid(text, "use printable ascii without spaces")
        if "?" in text or "#" in text:
            raise _invalid(text, "a query or fragment is not allowed")
        scheme, _, rest = text.partition(":")
        if scheme == "unix":
            return cls(_unix_target(text, rest))
        if scheme == "tcp":
            return cls(_tcp_target(text, rest))
        raise _invalid(text, "the scheme must be unix or tcp")


def endpoint_address(
    address: str | None = None, *, environment: Mapping[str, str] = os.environ
) -> EndpointAddress:
    """Return the address given, or else that of ``SPIFFE_ENDPOINT_SOCKET``.

    Raises:
        AddressError: It is malformed, or neither is given.
    """
    if address is None:
        address = environment.get(ENDPOINT_VARIABLE)
    if address is None:
        raise AddressError(f"no endpoint address: give one or set {ENDPOINT_VARIABLE}")
    return EndpointAddress.parse(address)


def _unix_target(text: str, rest: str) -> str:
    path = rest
    if rest.startswith("//"):
        authority, slash, tail = rest[2:].partition("/")
        if authority:
            raise _invalid(text, "a unix address has no authority")
        path = slash + tail
    if not path.startswith("/") or path.strip("/") == "":
        raise _invalid(text, "a unix address needs an absolute path")
    return f"unix:{path}"


def _tcp_target(text: str, rest: str) -> str:
    found = _TCP.fullmatch(rest.removeprefix("//")) if rest.startswith("//") else None
    if found is None:
        raise _invalid(text, "a tcp address is tcp://IP:PORT and nothing else")
    try:
        host = ipaddress.IPv6Address(found["v6"]) if found["v6"] else ipaddress.IPv4Address(found["v4"])
    except ValueError as error:
        raise _invalid(text, "the host must be an ip address") from error
    port = int(found["port"])
    if not 0 < port <= _LARGEST_PORT:
        raise _invalid(text, "the port must be from 1 to 65535")
    return f"ipv6:[{host}]:{port}" if host.version == 6 else f"ipv4:{host}:{port}"


def _invalid(text: str, rule: str) -> AddressError:
    return AddressError(f"invalid endpoint address {text[:256]!r}: {rule}")
