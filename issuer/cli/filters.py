# SPDX-License-Identifier: Apache-2.0
"""The options by which lists are narrowed, and the API's filters made from them."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from issuer.cli.options import SELECTOR, SPIFFE_ID, TRUST_DOMAIN
from spiffekit.id import TrustDomain
from spiffekit.selector import Selector

if TYPE_CHECKING:
    from spiffekit.wire.pb.spire.api import types_pb2

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

MATCHES: Final = ("exact", "subset", "superset", "any")


def options(*added: Callable[[F], F]) -> Callable[[F], F]:
    """Add several options at once; the first one is the first that `--help` shows."""

    def decorate(function: F) -> F:
        for option in reversed(added):
            function = option(function)
        return function

    return decorate


def match_option(flag: str, name: str) -> Callable[[F], F]:
    """Add the option that says how a list of given values is compared."""
    return click.option(
        flag, name, type=click.Choice(MATCHES), default="superset", show_default=True,
        help="How what is given compares with what a thing has.",
    )  # fmt: skip


selector_options = options(
    click.option("--selector", "selectors", type=SELECTOR, multiple=True, help="May be given several times."),
    match_option("--matchSelectorsOn", "match"),
)

node_filters = options(
    selector_options,
    click.option("--attestationType", "attestation_type", default="", help='E.g. "join_token".'),
    click.option("--banned", type=bool, help="Only banned ones, or only others."),
    click.option("--canReattest", "can_reattest", type=bool, help="Whether they can prove themselves again."),
    click.option(
        "--expiresBefore", "expires_before", default="", help="An instant, e.g. 2026-01-31T12:00:00Z."
    ),
)

entry_filters = options(
    click.option("--parentID", "parent_id", type=SPIFFE_ID, help="Only entries below this one."),
    click.option("--spiffeID", "spiffe_id", type=SPIFFE_ID, help="Only entries of this identity."),
    selector_options,
    click.option(
        "--federatesWith",
        "federates_with",
        type=TRUST_DOMAIN,
        multiple=True,
        help="May be given several times.",
    ),
    match_option("--matchFederatesWithOn", "match_federates"),
    click.option("--downstream", is_flag=True, help="Only entries of downstream issuers."),
    click.option("--hint", default=None, help="Only entries with this hint."),
)


def selector_match(selectors: Sequence[Selector], match: str) -> "types_pb2.SelectorMatch":
    """Return the API's form of a comparison of selectors."""
    from spiffekit.wire.convert import selector_to_proto
    from spiffekit.wire.pb.spire.api import types_pb2

    return types_pb2.SelectorMatch(
        selectors=map(selector_to_proto, selectors),
        match=f"MATCH_{match.upper()}",
    )


def node_filter(kind: Callable[..., T], given: dict[str, Any]) -> T:
    """Fill a filter of ListAgents or CountAgents."""
    from google.protobuf.wrappers_pb2 import BoolValue

    fields: dict[str, Any] = {
        "by_attestation_type": given["attestation_type"],
        "by_expires_before": given["expires_before"],
    }
    for name in ("banned", "can_reattest"):
        if given[name] is not None:
            fields[f"by_{name}"] = BoolValue(value=given[name])
    if given["selectors"]:
        fields["by_selector_match"] = selector_match(given["selectors"], given["match"])
    return kind(**fields)


def entry_filter(kind: Callable[..., T], given: dict[str, Any]) -> T:
    """Fill a filter of ListEntries or CountEntries."""
    from google.protobuf.wrappers_pb2 import BoolValue, StringValue

    from spiffekit.wire.convert import spiffe_id_to_proto
    from spiffekit.wire.pb.spire.api import types_pb2

    fields: dict[str, Any] = {}
    for name in ("spiffe_id", "parent_id"):
        if given[name] is not None:
            fields[f"by_{name}"] = spiffe_id_to_proto(given[name])
    if given["selectors"]:
        fields["by_selectors"] = selector_match(given["selectors"], given["match"])
    domains: tuple[TrustDomain, ...] = given["federates_with"]
    if domains:
        fields["by_federates_with"] = types_pb2.FederatesWithMatch(
            trust_domains=map(str, domains),
            match=f"MATCH_{given['match_federates'].upper()}",
        )
    if given["hint"] is not None:
        fields["by_hint"] = StringValue(value=given["hint"])
    if given["downstream"]:
        fields["by_downstream"] = BoolValue(value=True)
    return kind(**fields)
