# SPDX-License-Identifier: Apache-2.0
"""Rules for one argument of a tool, and when one of them is at least as narrow as another.

===================  ===========================================  ==========================================
type                 members                                      permits
===================  ===========================================  ==========================================
`exact`              value: a scalar                              that value
`range`              min, max, min_inclusive, max_inclusive;      numbers within
                     each may be left out
`one_of`             values                                       one of these
`not_one_of`         excluded                                     anything else
`contains`           required                                     arrays that have all of these
`subset`             allowed                                      arrays that have none but these
`wildcard`                                                        anything
`all`                constraints                                  what each of them permits
`any`                constraints                                  what one of them permits
`path_containment`   root: an absolute path                       it, and paths below it
`url_prefix`         prefix: an http or https URL, no query       it, and URLs below it, with any query
`max_lifetime`       max                                          numbers that do not exceed it together
                                                                  with what was spent before
===================  ===========================================  ==========================================

Any may narrow its own type, and a wildcard. `exact` may narrow `range`, `one_of`, `path_containment` and
`url_prefix` too. Every other pair counts as wider, even where a person sees that it is not: what is narrower
has to be certain, and the same for every verifier.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Self, TypeVar

from spiffekit.delegation import resources
from spiffekit.delegation.values import array, canonical, named, number
from spiffekit.errors import ConstraintError

MAX_VALUES: Final = 1000  # elements of an array
MAX_VALUE_BYTES: Final = 4096
MAX_ARGUMENT_BYTES: Final = 1024 * 1024  # of an argument that is judged
TYPE: Final = "constraint_type"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument of an invocation, as constraints compare it."""

    value: object
    text: str  # canonical
    spent: int | float | None = None  # what earlier invocations add up to; None: nobody has counted

    @classmethod
    def of(cls, value: object, spent: object = None) -> Self:
        """Return an argument.

        Raises:
            ConstraintError: It is no JSON value within bounds.
        """
        return cls(value, canonical(value, MAX_ARGUMENT_BYTES), None if spent is None else number(spent))

    def as_(self, form: Callable[[object], T]) -> T | None:
        """Return what `form` makes of the value, or None if it raises a ConstraintError."""
        try:
            return form(self.value)
        except ConstraintError:
            return None

    def elements(self) -> frozenset[str] | None:
        """Return the canonical texts of the elements of an array, or None of anything else."""
        if not isinstance(self.value, list | tuple):
            return None
        return frozenset(canonical(element, MAX_ARGUMENT_BYTES) for element in self.value)


class Constraint(ABC):
    """A rule for one argument. You get one by `spiffekit.delegation.clauses.parse_constraint`."""

    __slots__ = ()
    kind: ClassVar[str]
    members: ClassVar[frozenset[str]] = frozenset()
    optional: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def of(cls, members: Mapping[str, Any]) -> Self:
        """Return a constraint of the values of its members, as they stand in JSON.

        Raises:
            ConstraintError: One is missing, not known, or breaks a rule.
        """
        for name in sorted(cls.members - members.keys()):
            raise ConstraintError(f"{name} is missing")
        if members.keys() - cls.members - cls.optional:
            raise ConstraintError("has members that it does not know")
        return cls._of(members)

    def to_value(self) -> dict[str, object]:
        """Return the JSON value; parsed again, it is an equal constraint."""
        return {TYPE: self.kind} | self._members()

    def permits(self, argument: Argument) -> bool:
        """Tell whether an argument may have this value."""
        return self._permits(argument)

    def widening(self, parent: "Constraint") -> str | None:
        """Return by which rule this may permit more than `parent`, or None if it certainly does not."""
        if type(parent) is type(self):
            return self._widening(parent)
        if isinstance(parent, Wildcard):
            return None
        if isinstance(self, Exact) and isinstance(parent, _NARROWED_BY_EXACT):
            permitted = parent.permits(Argument(json.loads(self.value), self.value))
            return None if permitted else f"value is none that {parent.kind} permits"
        return f"{self.kind} cannot narrow {parent.kind}"

    @classmethod
    @abstractmethod
    def _of(cls, members: Mapping[str, Any], /) -> Self: ...

    @abstractmethod
    def _members(self) -> dict[str, object]: ...

    @abstractmethod
    def _permits(self, argument: Argument, /) -> bool: ...

    @abstractmethod
    def _widening(self, parent: Self, /) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Exact(Constraint):
    """One scalar."""

    value: str  # canonical: for Python, True would be 1
    kind = "exact"
    members = frozenset({"value"})

    @classmethod
    def _of(cls, members: Mapping[str, Any]) -> Self:
        if isinstance(members["value"], list | tuple | Mapping):
            raise ConstraintError("value is not a scalar")
        return cls(named("value", canonical, members["value"], MAX_VALUE_BYTES))

    def _members(self) -> dict[str, object]:
        return {"value": json.loads(self.value)}

    def _permits(self, argument: Argument) -> bool:
        return argument.text == self.value

    def _widening(self, parent: Self) -> str | None:
        return None if self.value == parent.value else "value is another"


@dataclass(frozen=True, slots=True)
class Range(Constraint):
    """Numbers between bounds. Bounds that cross permit nothing."""

    min: int | float | None = None
    max: int | float | None = None
    min_inclusive: bool = True
    max_inclusive: bool = True
    kind = "range"
    optional = frozenset({"min", "max", "min_inclusive", "max_inclusive"})

    @classmethod
    def _of(cls, members: Mapping[str, Any]) -> Self:
        for name in ("min_inclusive", "max_inclusive"):
            if not isinstance(members.get(name, True), bool):
                raise ConstraintError(f"{name} is neither true nor false")
        bounds = {name: named(name, number, members[name]) for name in ("min", "max") if name in members}
        return cls(**dict(members) | bounds)

    def _members(self) -> dict[str, object]:
        bounds = {name: bound for name in ("min", "max") if (bound := getattr(self, name)) is not None}
        open_ends = {name: False for name in ("min_inclusive", "max_inclusive") if not getattr(self, name)}
        return bounds | open_ends

    def _permits(self, argument: Argument) -> bool:
        given = argument.as_(number)
        return (
            given is not None
            and (self.min is None or given > self.min or (given == self.min and self.min_inclusive))
            and (self.max is None or given < self.max or (given == self.max and self.max_inclusive))
        )

    def _widening(self, parent: Self) -> str | None:
        if parent.min is not None and (
            self.min is None
            or self.min < parent.min
            or (self.min == parent.min and self.min_inclusive and not parent.min_inclusive)
        ):
            return "min is lower"
        if parent.max is not None and (
            self.max is None
            or self.max > parent.max
            or (self.max == parent.max and self.max_inclusive and not parent.max_inclusive)
        ):
            return "max is higher"
        return None


@dataclass(frozen=True, slots=True)
class _Values(Constraint):
    """A set of JSON values, by their canonical texts, in the one member that the type has."""

    values: frozenset[str]

    @classmethod
    def _of(cls, members: Mapping[str, Any]) -> Self:
        (name,) = cls.members
        elements = array(name, members[name], MAX_VALUES)
        return cls(frozenset(named(name, canonical, element, MAX_VALUE_BYTES) for element in elements))

    def _members(self) -> dict[str, object]:
        (name,) = self.members
        return {name: [json.loads(value) for value in sorted(self.values)]}


class OneOf(_Values):
    """One of these values."""

    __slots__ = ()
    kind = "one_of"
    members = frozenset({"values"})

    def _permits(self, argument: Argument) -> bool:
        return argument.text in self.values

    def _widening(self, parent: Self) -> str | None:
        return None if self.values <= parent.values else "values has more"


class NotOneOf(_Values):
    """Any value but these."""

    __slots__ = ()
    kind = "not_one_of"
    members = frozenset({"excluded"})

    def _permits(self, argument: Argument) -> bool:
        return argument.text not in self.values

    def _widening(self, parent: Self) -> str | None:
        return None if self.values >= parent.values else "excluded has less"


class Contains(_Values):
    """Arrays that have all of these elements."""

    __slots__ = ()
    kind = "contains"
    members = frozenset({"required"})

    def _permits(self, argument: Argument) -> bool:
        return (found := argument.elements()) is not None and self.values <= found

    def _widening(self, parent: Self) -> str | None:
        return None if self.values >= parent.values else "required has less"


class Subset(_Values):
    """Arrays that have no elements but these."""

    __slots__ = ()
    kind = "subset"
    members = frozenset({"allowed"})

    def _permits(self, argument: Argument) -> bool:
        return (found := argument.elements()) is not None and self.values >= found

    def _widening(self, parent: Self) -> str | None:
        return None if self.values <= parent.values else "allowed has more"


@dataclass(frozen=True, slots=True)
class Wildcard(Constraint):
    """Any value."""

    kind = "wildcard"

    @classmethod
    def _of(cls, members: Mapping[str, Any]) -> Self:
        return cls(**members)

    def _members(self) -> dict[str, object]:
        return {}

    def _permits(self, _: Argument) -> bool:
        return True

    def _widening(self, _: Self) -> str | None:
        return None


@dataclass(frozen=True, slots=True)
class PathContainment(Constraint):
    """A path, and what lies below it."""

    root: str
    kind = "path_containment"
    members = frozenset({"root"})

    @classmethod
    def _of(cls, members: Mapping[str, Any]) -> Self:
        return cls(named("root", resources.path, members["root"]))

    def _members(self) -> dict[str, object]:
        return {"root": self.root}

    def _permits(self, argument: Argument) -> bool:
        return (path := argument.as_(resources.path)) is not None and resources.below(path, self.root)

    def _widening(self, parent: Self) -> str | None:
        return None if resources.below(self.root, parent.root) else "root lies elsewhere"


@dataclass(frozen=True, slots=True)
class UrlPrefix(Constraint):
    """A URL, and what lies below it, with any query."""

    prefix: str
    kind = "url_prefix"
    members = frozenset({"prefix"})

    @classmethod
    def _of(cls, members: Mapping[str, Any]) -> Self:
        place, query = named("prefix", resources.url, members["prefix"])
        if query:
            raise ConstraintError("prefix has a query")
        return cls(place)

    def _members(self) -> dict[str, object]:
        return {"prefix": self.prefix}

    def _permits(self, argument: Argument) -> bool:
        return (url := argument.as_(resources.url)) is not None and resources.below(url[0], self.prefix)

    def _widening(self, parent: Self) -> str | None:
        return None if resources.below(self.prefix, parent.prefix) else "prefix lies elsewhere"


@dataclass(frozen=True, slots=True)
class MaxLifetime(Constraint):
    """Numbers that add up to a limit over the life of a grant.

    Only whoever counts can judge it, and counts one grant: those that were made from one parent can exceed
    its limit together, which nothing that is verified offline can prevent.
    """

    max: int | float
    kind = "max_lifetime"
    members = frozenset({"max"})

    @classmethod
    def _of(cls, members: Mapping[str, Any]) -> Self:
        return cls(named("max", number, members["max"]))

    def _members(self) -> dict[str, object]:
        return {"max": self.max}

    def _permits(self, argument: Argument) -> bool:
        given, spent = argument.as_(number), argument.spent
        return (
            given is not None and spent is not None and min(given, spent) >= 0 and given + spent <= self.max
        )

    def _widening(self, parent: Self) -> str | None:
        return None if self.max <= parent.max else "max is higher"


_NARROWED_BY_EXACT: Final = (Range, OneOf, PathContainment, UrlPrefix)
