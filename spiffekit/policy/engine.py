# SPDX-License-Identifier: Apache-2.0
"""Policies in Cedar: checked one by one, compiled once, and asked often.

The engine is `cedarpy`, of the extra ``policy``, and loaded when it is first needed. Where it is missing,
nothing can be compiled, and who cannot ask has to deny.
"""

import hashlib
import importlib
import importlib.resources
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache, cached_property, lru_cache
from types import ModuleType
from typing import Any, Final

from spiffekit.errors import PolicyEngineError, PolicyError
from spiffekit.policy.request import Request

MAX_TEXT: Final = 32 * 1024  # bytes of one policy
MAX_BRACKETS: Final = 200  # opening ones of one policy, wherever they stand: the parser is recursive, and
# a thousand nested ones overflow its stack, which ends the whole process
MAX_STATEMENTS: Final = 2_000  # of all policies together: each is looked at for each decision
MAX_IDS: Final = 20  # determining statements that a decision names
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_LABEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ANNOTATIONS: Final = frozenset(("id", "mode", "description"))
_MODES: Final = ("enforce", "shadow")
_SCHEMA: Final = importlib.resources.files("spiffekit.policy").joinpath("schema.json").read_text("utf-8")
_SCHEMA_SHA256: Final = hashlib.sha256(_SCHEMA.encode()).hexdigest()

Statements = Mapping[str, Any]  # in the engine's JSON form, by ID


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One or more Cedar statements under a name."""

    name: str  # 1 to 64 of a-z 0-9 . _ -
    version: int  # of this name, from 1
    text: str

    def statements(self) -> Statements:
        """Return the statements by ID: the name, "#", and the statement's `@id` or its position from 1.

        Raises:
            PolicyError: It breaks a rule of ours or of Cedar's, or does not fit the schema.
            PolicyEngineError: There is no engine.
        """
        return _statements(self.name, self.text, _engine())


class Denial(StrEnum):
    """Why something is denied, in a word: for logs, metrics and callers."""

    FORBIDDEN = "forbidden"  # a policy forbids it
    NOT_PERMITTED = "not_permitted"  # no policy permits it
    NOT_EVALUATED = "not_evaluated"  # the engine or a policy failed, or what it was asked breaks the schema
    POLICY_UNKNOWN = "policy_unknown"  # there are no policies, or they are too old
    BEYOND_LIMITS = "beyond_limits"  # the agent or its class is limited to other tools or arguments
    NO_ACTIVE_AGENT = "no_active_agent"  # the caller is nobody that policies speak of
    STATUS_UNKNOWN = "status_unknown"  # nobody knows now what is taken back
    REVOKED = "revoked"  # the caller, or what it showed, is taken back
    EXPIRED = "expired"  # what the caller showed is good no longer
    NOT_DELEGATED = "not_delegated"  # the delegation does not reach so far


@dataclass(frozen=True, slots=True)
class Decision:
    """What came of a request."""

    allowed: bool
    bundle: str = ""  # hash of the policies and the schema that were asked; "" if they were not
    ids: tuple[str, ...] = ()  # the statements that decided, at most `MAX_IDS`; none: nothing permits it
    reason: str = ""  # why it is denied
    shadow: "Decision | None" = None  # what it would be if the policies in shadow mode counted
    denial: Denial | None = None  # why it is denied, in a word

    @classmethod
    def denied(
        cls, denial: Denial, reason: str, *, bundle: str = "", ids: tuple[str, ...] = ()
    ) -> "Decision":
        """Return a denial."""
        return cls(allowed=False, bundle=bundle, ids=ids, reason=reason, denial=denial)


class Policies:
    """All policies that hold, ready to be asked. You get one by `compile`."""

    def __init__(self, policies: tuple[Policy, ...], statements: Statements, *, shadow: bool) -> None:
        self.policies = policies
        self.hash = _hash(policies)
        self._enforced = {k: s for k, s in statements.items() if shadow or not _is_shadow(s)}
        self._set = _compiled(self._enforced)
        self._with_shadow = _compiled(statements) if len(self._enforced) < len(statements) else None

    @classmethod
    def compile(cls, policies: Iterable[Policy], *, shadow: bool = False) -> "Policies":
        """Check and compile policies.

        Args:
            policies: In any order.
            shadow: Whether the statements in shadow mode count as well, to see what would come of it.

        Raises:
            PolicyError: One is malformed, there are two of a name, or too many statements.
            PolicyEngineError: There is no engine.
        """
        ordered = tuple(sorted(policies, key=lambda policy: policy.name))
        statements: dict[str, Any] = {}
        for before, policy in zip((None, *ordered), ordered, strict=False):
            if before is not None and before.name == policy.name:
                raise PolicyError(f"policy {policy.name!r}: is there twice")
            statements |= policy.statements()
            if len(statements) > MAX_STATEMENTS:
                raise PolicyError(f"policy {policy.name!r}: there are more than {MAX_STATEMENTS} statements")
        return cls(ordered, statements, shadow=shadow)

    @property
    def enforces(self) -> bool:
        """Whether any statement counts."""
        return bool(self._enforced)

    def decide(self, request: Request) -> Decision:
        """Return the decision; whatever goes wrong is a denial."""
        decision = self._ask(self._set, request)
        if self._with_shadow is None:
            return decision
        return replace(decision, shadow=self._ask(self._with_shadow, request))

    def decide_without_selectors(self, request: Request) -> Decision | None:
        """Return the decision on a request whose selectors nobody knows; None if it depends on them.

        The least that can be allowed is so when each prohibition that speaks of selectors holds and no such
        permission does; the most, the other way round. Where both agree, selectors do not matter.
        """
        least, most = self._ask(self._least, request), self._ask(self._most, request)
        return least if least.allowed == most.allowed else None

    @cached_property
    def _least(self) -> Any:
        return _compiled(self._assumed("forbid"))

    @cached_property
    def _most(self) -> Any:
        return _compiled(self._assumed("permit"))

    def _assumed(self, effect: str) -> Statements:
        """Return the statements; of those on selectors only the ones of an effect, unconditional."""
        assumed: dict[str, Any] = {}
        for key, statement in self._enforced.items():
            if "selectors" not in json.dumps(statement["conditions"]):
                assumed[key] = statement
            elif statement["effect"] == effect:
                assumed[key] = statement | {"conditions": []}
        return assumed

    def _ask(self, compiled: Any, request: Request) -> Decision:
        cedar, schema = _engine()
        try:
            result = cedar.is_authorized(request.cedar(), compiled, request.entities(), schema)
        except Exception:  # noqa: BLE001 - the boundary of the engine: what it cannot answer is denied
            return Decision.denied(Denial.NOT_EVALUATED, "the policy engine failed", bundle=self.hash)
        # Cedar leaves out a statement that fails, and a prohibition that fails would permit.
        if result.diagnostics.errors:
            return Decision.denied(Denial.NOT_EVALUATED, "a policy could not be evaluated", bundle=self.hash)
        ids = tuple(sorted(result.diagnostics.reasons)[:MAX_IDS])
        if result.allowed:
            return Decision(allowed=True, bundle=self.hash, ids=ids)
        if not ids:
            return Decision.denied(Denial.NOT_PERMITTED, "no policy permits it", bundle=self.hash)
        return Decision.denied(Denial.FORBIDDEN, f"policy {ids[0]} forbids it", bundle=self.hash, ids=ids)


@lru_cache(maxsize=MAX_STATEMENTS)
def _statements(name: str, text: str, engine: tuple[Any, Any]) -> Statements:
    if not _NAME.fullmatch(name):
        raise PolicyError(f"policy {name[:80]!r}: a name is 1 to 64 of a-z, 0-9, '.', '_' and '-'")
    _check_text(name, text)
    cedar, schema = engine
    try:
        parsed = json.loads(cedar.policies_to_json_str(text))
        verdict = cedar.validate_policies(text, schema)
    except ValueError as error:
        raise PolicyError(f"policy {name!r}: {_short(error)}") from error
    if parsed["templates"]:
        raise PolicyError(f"policy {name!r}: templates (?principal, ?resource) are not supported")
    found: dict[str, Any] = {}
    numbers = {key: int(key.removeprefix("policy")) + 1 for key in parsed["staticPolicies"]}
    for key in sorted(numbers, key=numbers.__getitem__):
        statement = parsed["staticPolicies"][key]
        statement_id = f"{name}#{_label(name, numbers[key], statement)}"
        if statement_id in found:
            raise PolicyError(f"policy {name!r}: two statements are called {statement_id!r}")
        found[statement_id] = statement
    if not found:
        raise PolicyError(f"policy {name!r}: has no statement")
    for wrong in sorted(verdict.errors, key=str)[:1]:
        number = numbers[wrong.policy_id]
        message = wrong.error.removeprefix(f"for policy `{wrong.policy_id}`, ")
        raise PolicyError(f"policy {name!r}, statement {number}: {_short(message)}")
    _compiled(found)  # what is too deep for the engine fails here
    return found


def _check_text(name: str, text: str) -> None:
    if len(text.encode("utf-8", "replace")) > MAX_TEXT:
        raise PolicyError(f"policy {name!r}: is longer than {MAX_TEXT} bytes")
    if sum(map(text.count, "([{")) > MAX_BRACKETS:
        raise PolicyError(f"policy {name!r}: has more than {MAX_BRACKETS} opening brackets; split it")
    for character in text:  # one that cannot be seen can make a text read as what it is not
        if character not in "\n\r\t" and unicodedata.category(character) in ("Cc", "Cf", "Cs"):
            raise PolicyError(f"policy {name!r}: has the invisible character U+{ord(character):04X}")


def _label(name: str, number: int, statement: Mapping[str, Any]) -> str:
    """Return what a statement is called after the name of its policy, having checked its annotations."""
    annotations = statement.get("annotations", {})
    where = f"policy {name!r}, statement {number}"
    for key in annotations:
        if key not in _ANNOTATIONS:
            raise PolicyError(f"{where}: annotation @{key[:80]} is none of id, mode and description")
    if "mode" in annotations and annotations["mode"] not in _MODES:
        raise PolicyError(f"{where}: @mode is neither enforce nor shadow")
    if "id" not in annotations:
        return str(number)
    label = annotations["id"]
    # Digits alone are the positions of statements.
    if not isinstance(label, str) or not _LABEL.fullmatch(label) or label.isdigit():
        raise PolicyError(f"{where}: @id is 1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-', not digits alone")
    return label


def _is_shadow(statement: Mapping[str, Any]) -> bool:
    return bool(statement.get("annotations", {}).get("mode") == "shadow")


def _hash(policies: Iterable[Policy]) -> str:
    said = [_SCHEMA_SHA256, *([policy.name, policy.version, policy.text] for policy in policies)]
    return hashlib.sha256(json.dumps(said, separators=(",", ":")).encode()).hexdigest()


def _compiled(statements: Statements) -> Any:
    cedar, _ = _engine()
    policy_set = {"staticPolicies": statements, "templates": {}, "templateLinks": []}
    try:
        return cedar.PolicySet.from_json_str(json.dumps(policy_set))
    except ValueError as error:
        raise PolicyError(
            f"policy {next(iter(statements)).partition('#')[0]!r}: is nested too deep"
        ) from error


def _engine() -> tuple[Any, Any]:
    """Return the engine and our schema in its form.

    Raises:
        PolicyEngineError: It is not installed.
    """
    try:
        cedar = importlib.import_module("cedarpy")
    except ImportError as error:
        raise PolicyEngineError("policies need cedarpy: install the extra 'policy'") from error
    return cedar, _schema(cedar)


@cache
def _schema(cedar: ModuleType) -> Any:
    return cedar.Schema.from_json_str(_SCHEMA)


def _short(error: object) -> str:
    return str(error)[:300]
