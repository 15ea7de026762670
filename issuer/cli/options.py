# SPDX-License-Identifier: Apache-2.0
"""Options and argument types that several verbs share."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from spiffekit.daemon import terminal
from spiffekit.errors import LogFormatError, SelectorError, SpiffeIdError, TemplateError
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.selector import Selector
from spiffekit.template import Template

if TYPE_CHECKING:
    from spiffekit.transparency.notes import VerifierKey

DEFAULT_SOCKET: Final = Path("/run/issuer/private/api.sock")
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION: Final = re.compile(r"(\d+[smhd])+")


class SpiffeIdType(click.ParamType[SpiffeId]):
    """A SPIFFE ID."""

    name = "spiffe id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> SpiffeId:
        """Parse it, or fail with the rule that it breaks."""
        try:
            return value if isinstance(value, SpiffeId) else SpiffeId.parse(value)
        except SpiffeIdError as error:
            self.fail(str(error), param, ctx)


class IdentityType(click.ParamType[SpiffeId | Template]):
    """A SPIFFE ID, or a template of many."""

    name = "spiffe id"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> SpiffeId | Template:
        """Parse it, or fail with the rule that it breaks."""
        try:
            if isinstance(value, SpiffeId | Template):
                return value
            return Template.parse(value) if "{" in value else SpiffeId.parse(value)
        except (SpiffeIdError, TemplateError) as error:
            self.fail(str(error), param, ctx)


class TrustDomainType(click.ParamType[TrustDomain]):
    """A trust domain, by name or ID."""

    name = "trust domain"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> TrustDomain:
        """Parse it, or fail with the rule that it breaks."""
        try:
            return value if isinstance(value, TrustDomain) else TrustDomain.parse(value)
        except SpiffeIdError as error:
            self.fail(str(error), param, ctx)


class SelectorType(click.ParamType[Selector]):
    """A selector, ``type:value``."""

    name = "type:value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Selector:
        """Parse it, or fail with the rule that it breaks."""
        try:
            return value if isinstance(value, Selector) else Selector.parse(value)
        except SelectorError as error:
            self.fail(str(error), param, ctx)


class SecondsType(click.ParamType[int]):
    """A time span: seconds ("3600") or with units ("1h", "1h30m"); the value is whole seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse it, or fail with the forms that are possible."""
        if isinstance(value, int):
            return value
        if value.isascii() and value.isdigit():
            return int(value)
        if not _DURATION.fullmatch(value):
            self.fail(f"{value!r} is neither seconds nor a span like 1h30m", param, ctx)
        return sum(int(n) * _UNITS[unit] for n, unit in re.findall(r"(\d+)([smhd])", value))


class InstantType(click.ParamType[datetime]):
    """An instant: a date or a time, of UTC unless it says otherwise."""

    name = "instant"
    forms = "a date nor an instant"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Parse it, or fail with the forms that are possible."""
        if isinstance(value, datetime):
            return value
        try:
            given = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is neither {self.forms}", param, ctx)
        return given if given.tzinfo else given.replace(tzinfo=UTC)


class PastType(InstantType):
    """An instant, or a span back from now ("2h")."""

    forms = "a date, an instant nor a span like 2h"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Parse it, or fail with the forms that are possible."""
        if isinstance(value, str) and _DURATION.fullmatch(value):
            return datetime.now(UTC) - timedelta(seconds=SECONDS.convert(value, param, ctx))
        return super().convert(value, param, ctx)


class VerifierKeyType(click.ParamType["VerifierKey"]):
    """The public key of a log or witness, as `issuer audit key` prints it."""

    name = "key"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> "VerifierKey":
        """Parse it, or fail with the rule that it breaks."""
        from spiffekit.transparency.notes import VerifierKey

        try:
            return value if isinstance(value, VerifierKey) else VerifierKey.parse(value)
        except LogFormatError as error:
            self.fail(str(error), param, ctx)


SPIFFE_ID: Final = SpiffeIdType()
IDENTITY: Final = IdentityType()
TRUST_DOMAIN: Final = TrustDomainType()
SELECTOR: Final = SelectorType()
SECONDS: Final = SecondsType()
INSTANT: Final = InstantType()
PAST: Final = PastType()
VERIFIER_KEY: Final = VerifierKeyType()


socket_option: Final = terminal.socket_option(DEFAULT_SOCKET, "The issuer's admin socket.")


def epoch(given: datetime | None) -> int:
    """Return whole seconds since 1970; 0 where no instant is given."""
    return 0 if given is None else int(given.timestamp())
