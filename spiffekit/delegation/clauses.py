# SPDX-License-Identifier: Apache-2.0
"""Constraints made of others: `all` and `any`, and how a tree of them is read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from spiffekit.delegation.constraints import (
    TYPE,
    Argument,
    Constraint,
    Contains,
    Exact,
    MaxLifetime,
    NotOneOf,
    OneOf,
    PathContainment,
    Range,
    Subset,
    UrlPrefix,
    Wildcard,
)
from spiffekit.delegation.values import array, named
from spiffekit.errors import ConstraintError

MAX_NESTING: Final = 8  # levels of `all` and `any`
MAX_CLAUSES: Final = 64  # constraints in a tree: to compare two takes a time that grows with the product


@dataclass(frozen=True, slots=True)
class _Clauses(Constraint):
    constraints: tuple[Constraint, ...]
    members = frozenset({"constraints"})

    @classmethod
    def _of(cls, members: Mapping[str, Any]) -> Self:
        clauses = array("constraints", members["constraints"], MAX_CLAUSES)
        if not clauses:  # all of none would permit everything, and any of none nothing
            raise ConstraintError("constraints is empty")
        return cls(tuple(map(_parse, clauses)))

    def _members(self) -> dict[str, object]:
        return {"constraints": [clause.to_value() for clause in self.constraints]}


class All(_Clauses):
    """What each of these permits."""

    __slots__ = ()
    kind = "all"

    def _permits(self, argument: Argument) -> bool:
        return all(clause.permits(argument) for clause in self.constraints)

    def _widening(self, parent: Self) -> str | None:
        """Find for each clause of the parent's a narrower one of ours, that serves no other.

        The draft tries every assignment (§4.5). Augmenting paths find one where there is one too, in at most
        clauses³ steps, so that nobody keeps a verifier busy with clauses that almost fit.
        """
        fits = [
            [at for at, ours in enumerate(self.constraints) if ours.widening(theirs) is None]
            for theirs in parent.constraints
        ]
        serves: dict[int, int] = {}  # the clause of the parent's, by ours

        def assign(theirs: int, tried: set[int]) -> bool:
            for ours in fits[theirs]:
                if ours not in tried:
                    tried.add(ours)
                    if ours not in serves or assign(serves[ours], tried):
                        serves[ours] = theirs
                        return True
            return False

        if all(assign(theirs, set()) for theirs in range(len(fits))):
            return None
        return "constraints lacks one of its own for each of the parent's"


class AnyOf(_Clauses):
    """What at least one of these permits."""

    __slots__ = ()
    kind = "any"

    def _permits(self, argument: Argument) -> bool:
        return any(clause.permits(argument) for clause in self.constraints)

    def _widening(self, parent: Self) -> str | None:
        for ours in self.constraints:
            if not any(ours.widening(theirs) is None for theirs in parent.constraints):
                return "constraints has one that narrows none of the parent's"
        return None


_KINDS: Final[tuple[type[Constraint], ...]] = (
    *(Exact, Range, OneOf, NotOneOf, Contains, Subset, Wildcard, All, AnyOf),
    *(PathContainment, UrlPrefix, MaxLifetime),
)
TYPES: Final[Mapping[str, type[Constraint]]] = {constraint.kind: constraint for constraint in _KINDS}


def parse_constraint(value: object) -> Constraint:
    """Return a constraint from its JSON value.

    Raises:
        ConstraintError: It is none that we know, or beyond a limit; the message says by which rule.
    """
    _check_size(value)
    return _parse(value)


def _check_size(value: object) -> None:
    """Refuse a tree that is too large before anything is made of it."""
    level, total = [value], 0
    for _ in range(MAX_NESTING + 1):
        total += len(level)
        if total > MAX_CLAUSES:
            raise ConstraintError(f"has more than {MAX_CLAUSES} constraints in each other")
        inner = [
            clauses
            for clause in level
            if isinstance(clause, Mapping) and isinstance(clauses := clause.get("constraints"), list | tuple)
        ]
        level = [clause for clauses in inner for clause in clauses]
    if level:
        raise ConstraintError(f"is nested deeper than {MAX_NESTING}")


def _parse(value: object) -> Constraint:
    if not isinstance(value, Mapping):
        raise ConstraintError("is not an object")
    kind = value.get(TYPE)
    found = TYPES.get(kind) if isinstance(kind, str) else None
    if found is None:
        raise ConstraintError(f"{TYPE} is none that is known")
    members = {name: member for name, member in value.items() if name != TYPE}
    return named(f"{kind}:", found.of, members)
