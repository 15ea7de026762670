# SPDX-License-Identifier: Apache-2.0
"""Policies on their way to whoever has to ask them: signed by the trust domain that they are of.

A bundle is a JWS of `typ` ``policy-bundle+jwt``, signed by a JWT authority of the trust domain's own bundle.
It has every policy, and every active agent with what policies may ask of it and the tools that it may use at
most; it is numbered and short-lived.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, Final, Self

from spiffekit import statement
from spiffekit.bundle import BundleSource
from spiffekit.delegation.tools import Tools
from spiffekit.errors import (
    ConstraintError,
    JwtSvidError,
    NotPermittedError,
    PolicyError,
    PolicyUnknownError,
    SpiffeError,
    SpiffeIdError,
    UntrustedError,
)
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.jws import Jws
from spiffekit.policy.engine import Decision, Denial, Policies, Policy
from spiffekit.policy.request import TOOL, Principal, Request, Resource

TYP: Final = "policy-bundle+jwt"
LIFETIME: Final = timedelta(hours=1)  # who is cut off for longer knows nothing, and denies
MAX_SKEW: Final = timedelta(seconds=30)
MAX_BYTES: Final = 16 * 1024 * 1024
NO_ARGUMENTS: Final[Mapping[str, object]] = MappingProxyType({})
_NO_CEILING: Final = -1
MAX_REMEMBERED: Final = 10_000  # decisions: some 5 MB, whatever tools callers ask for


@dataclass(frozen=True, kw_only=True)
class PolicyBundle:
    """The policies and agents of one trust domain. You get a verified one by `verify`."""

    trust_domain: TrustDomain
    sequence: int  # grows with whatever changes what is said here
    version: int  # counts the changes of its policies
    issued_at: datetime  # whole seconds
    expires_at: datetime
    policies: tuple[Policy, ...] = ()
    agents: Mapping[SpiffeId, Principal] = field(default_factory=dict, repr=False)  # the active ones
    # What an agent and its class are limited to, whatever policies permit; who is not here has no such limit.
    ceilings: Mapping[SpiffeId, Tools] = field(default_factory=dict, repr=False)

    def claims(self) -> dict[str, Any]:
        """Return the claims of the token that says this."""
        distinct: dict[bytes, tuple[int, Tools]] = {}  # many agents have those of their class
        number = {
            spiffe_id: distinct.setdefault(tools.to_json(), (len(distinct), tools))[0]
            for spiffe_id, tools in self.ceilings.items()
        }
        return {
            "iss": str(self.trust_domain.id),
            "seq": self.sequence,
            "version": self.version,
            "iat": int(self.issued_at.timestamp()),
            "exp": int(self.expires_at.timestamp()),
            "policies": [[policy.name, policy.version, policy.text] for policy in self.policies],
            "agents": {
                str(spiffe_id): [
                    who.owner,
                    who.agent_class,
                    who.team,
                    who.review_overdue,
                    number.get(spiffe_id, _NO_CEILING),
                ]
                for spiffe_id, who in self.agents.items()
            },
            "tools": [tools.to_value() for _, tools in distinct.values()],
        }

    @classmethod
    def verify(cls, token: str, bundles: BundleSource, *, now: datetime) -> Self:
        """Verify a bundle of policies.

        1. it is a compact JWS of bounded size and of our `typ`, so that nothing else passes for one;
        2. the issuer is a trust domain, and a JWT authority of that trust domain's bundle signed it;
        3. its claims are complete and well-formed, and name only agents of that trust domain;
        4. it is of now: not expired, issued no more than `MAX_SKEW` in the future, for no longer than
           `LIFETIME`.

        Whether its policies fit the schema is seen when they are compiled.

        Args:
            token: Compact serialization.
            bundles: Where the trust bundle of the issuer comes from.
            now: The instant to judge by.

        Raises:
            PolicyError: It is malformed.
            UnknownTrustDomainError: There is no trust bundle for its trust domain.
            UntrustedError: No key of that trust bundle vouches for it.
            PolicyUnknownError: It is not of now.
        """
        try:
            # (1), (2)
            trust_domain, jws = statement.verify(
                token, bundles, typ=TYP, longest=MAX_BYTES, what="policy bundle"
            )
            # (3)
            found = cls._of(jws, trust_domain)
        except (JwtSvidError, SpiffeIdError) as error:
            raise PolicyError(f"policy bundle: {error}") from error
        # (4)
        if found.expires_at - found.issued_at > LIFETIME:
            raise PolicyError("policy bundle: is valid for too long")
        found.check_fresh(now)
        return found

    @classmethod
    def _of(cls, jws: Jws, trust_domain: TrustDomain) -> Self:
        issued_at = jws.instant("iat")
        if issued_at is None:
            raise PolicyError("policy bundle: iat is missing")
        policies = []
        for said in _of_type(list, jws.payload.get("policies"), "policies"):
            name, version, text = _members(said, (str, int, str), "policies")
            policies.append(Policy(name=name, version=version, text=text))
        tools = _tools(jws.payload.get("tools"))
        agents, ceilings = {}, {}
        for key, said in _of_type(dict, jws.payload.get("agents"), "agents").items():
            owner, agent_class, team, overdue, ceiling = _members(said, (str, str, str, bool, int), "agents")
            spiffe_id = SpiffeId.parse(key)
            if not spiffe_id.is_member_of(trust_domain):
                raise PolicyError(f"policy bundle: agent {spiffe_id} is not of {trust_domain}")
            agents[spiffe_id] = Principal(
                spiffe_id=spiffe_id, owner=owner, agent_class=agent_class, team=team, review_overdue=overdue
            )
            if ceiling != _NO_CEILING:
                if not 0 <= ceiling < len(tools):
                    raise PolicyError(f"policy bundle: agent {spiffe_id} has tools that are not there")
                ceilings[spiffe_id] = tools[ceiling]
        return cls(
            trust_domain=trust_domain,
            sequence=_of_type(int, jws.payload.get("seq"), "seq"),
            version=_of_type(int, jws.payload.get("version"), "version"),
            issued_at=issued_at,
            expires_at=jws.expires_at(),
            policies=tuple(policies),
            agents=agents,
            ceilings=ceilings,
        )

    def is_newer_than(self, before: "PolicyBundle | None") -> bool:
        """Tell whether it says anything that one of the same trust domain did not say before.

        Raises:
            PolicyUnknownError: It is older: somebody plays back what was said once.
        """
        if before is None:
            return True
        ours, theirs = (self.sequence, self.issued_at), (before.sequence, before.issued_at)
        if ours < theirs:
            raise PolicyUnknownError(
                f"policies {self.sequence} of {self.trust_domain} are older than {before.sequence}"
            )
        return ours > theirs

    def check_fresh(self, now: datetime) -> None:
        """Check that the bundle can be relied upon now.

        Raises:
            PolicyUnknownError: It has expired, or is of the future.
        """
        if now >= self.expires_at:
            raise PolicyUnknownError(f"policies of {self.trust_domain} have expired")
        if self.issued_at > now + MAX_SKEW:
            raise PolicyUnknownError(f"policies of {self.trust_domain} are of the future: clocks disagree")


class _Remembering:
    """Policies, and what they have decided: the same question has the same answer."""

    def __init__(self, policies: Policies) -> None:
        self.policies = policies
        self._decisions: dict[bytes, Decision] = {}

    def decide(self, request: Request) -> Decision:
        key = request.key()
        decision = self._decisions.get(key)
        if decision is None:
            decision = self.policies.decide(request)
            if decision.denial is not Denial.NOT_EVALUATED:  # that may be otherwise the next time
                if len(self._decisions) >= MAX_REMEMBERED:
                    self._decisions.clear()
                self._decisions[key] = decision
        return decision


class PolicyBook:
    """The newest policies of one trust domain, ready to be asked. It never goes back to older ones.

    `put` is for one thread, and whatever asks for any.
    """

    def __init__(self, trust_domain: TrustDomain) -> None:
        self.trust_domain = trust_domain
        # One value, so that who reads while it changes has either. None: they cannot be evaluated.
        self._held: tuple[PolicyBundle, _Remembering | None] | None = None

    def put(self, bundle: PolicyBundle) -> bool:
        """Keep a verified bundle; tell whether it is newer than what was there.

        One whose policies cannot be compiled is kept as well, and then everything is denied: those before
        it hold no longer.

        Raises:
            UntrustedError: It is of another trust domain.
            PolicyUnknownError: A newer one was here before: somebody plays back an old one.
            PolicyError: One of its policies is malformed.
            PolicyEngineError: There is no engine.
        """
        if bundle.trust_domain != self.trust_domain:
            raise UntrustedError(f"policies of {bundle.trust_domain} are not those of {self.trust_domain}")
        before, policies = self._held or (None, None)
        if not bundle.is_newer_than(before):
            return False
        try:
            if policies is None or policies.policies.policies != bundle.policies:
                policies = _Remembering(Policies.compile(bundle.policies))
        except SpiffeError:
            self._held = bundle, None
            raise
        self._held = bundle, policies
        return True

    def decide_tool(
        self,
        spiffe_id: SpiffeId,
        tool: str,
        now: datetime,
        arguments: Mapping[str, object] = NO_ARGUMENTS,
    ) -> Decision:
        """Return whether an agent may call a tool. Whatever goes wrong is a denial.

        Args:
            spiffe_id: Of the caller, as its verified SVID or delegation says.
            tool: The tool's name.
            now: The instant to judge by.
            arguments: Those of the call, each a JSON value; they are held against the limits of the agent.
        """
        held = self._held
        if held is None:
            return Decision.denied(Denial.POLICY_UNKNOWN, f"policies of {self.trust_domain} are not known")
        bundle, policies = held
        try:
            bundle.check_fresh(now)
        except PolicyUnknownError as error:
            return Decision.denied(Denial.POLICY_UNKNOWN, str(error))
        if policies is None:
            return Decision.denied(
                Denial.NOT_EVALUATED, f"policies of {self.trust_domain} cannot be evaluated"
            )
        principal = bundle.agents.get(spiffe_id)
        if principal is None:
            reason = f"{spiffe_id} is no active agent of {self.trust_domain}"
            return Decision.denied(Denial.NO_ACTIVE_AGENT, reason, bundle=policies.policies.hash)
        ceiling = bundle.ceilings.get(spiffe_id)
        if ceiling is not None:
            try:
                ceiling.check_permits(tool, arguments)
            except NotPermittedError as error:
                return Decision.denied(Denial.BEYOND_LIMITS, str(error), bundle=policies.policies.hash)
        resource = Resource(kind="Tool", id=tool)
        return policies.decide(Request(action=TOOL, principal=principal, resource=resource, at=now))


def _of_type(kind: type, value: object, name: str) -> Any:
    if type(value) is not kind:  # bool is an int in Python
        raise PolicyError(f"policy bundle: {name} is missing or malformed")
    return value


def _tools(value: object) -> list[Tools]:
    try:
        return [Tools.from_value(member) for member in _of_type(list, value, "tools")]
    except ConstraintError as error:
        raise PolicyError(f"policy bundle: tools: {error}") from error


def _members(value: object, kinds: tuple[type, ...], name: str) -> list[Any]:
    members = _of_type(list, value, name)
    if len(members) != len(kinds):
        raise PolicyError(f"policy bundle: {name} has a malformed member")
    return [_of_type(kind, member, name) for kind, member in zip(kinds, members, strict=True)]
