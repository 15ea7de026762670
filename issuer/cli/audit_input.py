# SPDX-License-Identifier: Apache-2.0
"""Which events are asked for, and how they come, a page at a time."""

import time
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import click

from issuer.cli.filters import options
from issuer.cli.options import PAST

if TYPE_CHECKING:
    from issuer.client import IssuerApi
    from spiffekit.wire.pb.issuer.v1 import audit_pb2

PAGE: Final = 1000
POLL: Final = 1.0  # seconds between two looks for new events; they are sealed as often

event_filters = options(
    click.option("--type", "type_", default="", help='E.g. "svid.issued"; "svid." for all that begin so.'),
    click.option("--actor", default="", help="Who did it: a SPIFFE ID, or as the events have it."),
    click.option("--resource", default="", help="The ID acted upon."),
    click.option(
        "--credential", default="", help="Serial number (decimal or hex), or ID or hash of a token."
    ),
    click.option("--txn", default="", help="The transaction that verifiers tell of."),
    click.option("--since", type=PAST, help='From this instant on, or e.g. "2h" back from now.'),
    click.option("--until", type=PAST, help="Before this instant."),
)


def event_request(given: dict[str, Any], **more: Any) -> "audit_pb2.ListEventsRequest":
    """Return the request for what the filters say."""
    from spiffekit.wire.pb.issuer.v1 import audit_pb2

    return audit_pb2.ListEventsRequest(
        type=given["type_"],
        actor=given["actor"],
        resource=given["resource"],
        credential=credential_name(given["credential"]),
        txn=given["txn"],
        since=_microseconds(given["since"]),
        until=_microseconds(given["until"]),
        **more,
    )


def credential_name(text: str) -> str:
    """Return a credential as the trail knows it: a serial number in decimal, also if it came as hex."""
    digits = text.replace(":", "") if ":" in text else text.removeprefix("0x")
    if digits == text:
        return text
    try:
        return str(int(digits, 16))
    except ValueError:
        raise click.UsageError(f"{text!r} is no hexadecimal number") from None


def _microseconds(instant: datetime | None) -> int:
    return 0 if instant is None else int(instant.timestamp()) * 1_000_000 + instant.microsecond


def events(
    api: "IssuerApi", request: "audit_pb2.ListEventsRequest", *, follow: bool = False
) -> Iterator["audit_pb2.AuditEvent"]:
    """Yield the events of a request in the order of the log, from `after` on; with `follow` for ever."""
    from issuer.client import DEADLINE

    while True:
        request.page_size = PAGE
        page = api.audit.ListEvents(request, timeout=DEADLINE)
        yield from page.events
        if page.events:
            request.after = page.events[-1].sequence
        if not page.more:
            if not follow:
                return
            time.sleep(POLL)
