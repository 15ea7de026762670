# SPDX-License-Identifier: Apache-2.0
"""Which tools may be used, and with which arguments: the member `tools` of `attenuating_agent_token`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Self, TypeVar

from spiffekit.delegation.clauses import parse_constraint
from spiffekit.delegation.constraints import Argument, Constraint
from spiffekit.delegation.values import named, text
from spiffekit.errors import ConstraintError, NotNarrowerError, NotPermittedError
from spiffekit.jwk import parse_json_object, to_json

MAX_BYTES: Final = 64 * 1024  # of all tools in JSON
MAX_TOOLS: Final = 256
MAX_ARGUMENTS: Final = 64  # of a tool
MAX_NAME_BYTES: Final = 256  # of a tool or an argument

_NOTHING_SPENT: Final[Mapping[str, float]] = MappingProxyType({})
Arguments = Mapping[str, Constraint]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Tools:
    """The tools that may be used, each with the constraints of its arguments.

    A tool without any takes whatever it is given. With some, it takes exactly the arguments that they name:
    each has to be there, and no other may be (§3.3). Names are compared as they are written.
    """

    tools: Mapping[str, Arguments]

    @classmethod
    def from_json(cls, document: bytes) -> Self:
        """Return tools from JSON in which no name stands twice.

        Raises:
            ConstraintError: It is none, or beyond a limit; the message says tool, argument and rule.
        """
        try:
            value = parse_json_object(document, MAX_BYTES)
        except ValueError as error:
            raise ConstraintError(str(error)) from error
        return cls.from_value(value)

    @classmethod
    def from_value(cls, value: object) -> Self:
        """Return tools from a JSON value; whoever parsed it saw to it that no name stood twice.

        Raises:
            ConstraintError: It is none, or beyond a limit; the message says tool, argument and rule.
        """
        return cls(_table("tool", value, MAX_TOOLS, _arguments))

    def to_value(self) -> dict[str, dict[str, object]]:
        """Return the JSON value; parsed again, it is equal."""
        return {
            tool: {name: constraint.to_value() for name, constraint in arguments.items()}
            for tool, arguments in self.tools.items()
        }

    def to_json(self) -> bytes:
        """Return compact JSON in ASCII."""
        return to_json(self.to_value())

    def check_permits(
        self, tool: str, arguments: Mapping[str, object], *, spent: Mapping[str, float] = _NOTHING_SPENT
    ) -> None:
        """Check that a tool may be used with these arguments (§7, step 6b).

        Args:
            tool: Its name.
            arguments: A JSON value for each.
            spent: For each argument that is counted, what earlier invocations under this grant add up to.
                Without it, what `max_lifetime` constrains is refused.

        Raises:
            NotPermittedError: It may not; the message names tool and argument, and has no value.
        """
        if tool not in self.tools:
            raise NotPermittedError(f"tool {tool[:MAX_NAME_BYTES]!r} is none of those that may be used")
        constraints = self.tools[tool]
        if constraints and (others := arguments.keys() ^ constraints.keys()):
            raise NotPermittedError(f"{_argument(tool, min(others))} has to be there, and no other")
        for name, value in arguments.items():
            try:
                argument = Argument.of(value, spent.get(name))
            except ConstraintError as error:
                raise NotPermittedError(f"{_argument(tool, name)} {error}") from error
            if constraints and not constraints[name].permits(argument):
                raise NotPermittedError(
                    f"{_argument(tool, name)} is not what {constraints[name].kind} permits"
                )

    def check_narrows(self, parent: "Tools") -> None:
        """Check that whatever these permit, `parent` permits (§4.5).

        Raises:
            NotNarrowerError: That is not certain; the message names tool, argument and rule.
        """
        for tool, arguments in self.tools.items():
            if tool not in parent.tools:
                raise NotNarrowerError(f"tool {tool!r} is none of the parent's")
            if reason := _widening(tool, arguments, parent.tools[tool]):
                raise NotNarrowerError(reason)

    def within(self, other: "Tools") -> "Tools":
        """Return tools that narrow both these and `other`. What cannot be compared is left out."""
        common = (
            (tool, _narrower(arguments, other.tools[tool]))
            for tool, arguments in self.tools.items()
            if tool in other.tools
        )
        return Tools(MappingProxyType({tool: found for tool, found in common if found is not None}))


def _table(what: str, value: object, most: int, parse: Callable[[object], T]) -> Mapping[str, T]:
    if not isinstance(value, Mapping):
        raise ConstraintError("is not an object")
    if len(value) > most:
        raise ConstraintError(f"has more than {most} {what}s")
    for name in value:
        named(f"the name of a {what}", text, name, MAX_NAME_BYTES)
        if not name.strip() or not name.isprintable():
            raise ConstraintError(f"{what} {name!r} has a name that cannot be printed")
    return MappingProxyType({name: named(f"{what} {name!r}:", parse, value[name]) for name in value})


def _arguments(value: object) -> Arguments:
    return _table("argument", value, MAX_ARGUMENTS, parse_constraint)


def _widening(tool: str, ours: Arguments, theirs: Arguments) -> str | None:
    if theirs and (others := ours.keys() ^ theirs.keys()):
        return f"{_argument(tool, min(others))} is limited on one side only"
    for name, constraint in theirs.items():
        if reason := ours[name].widening(constraint):
            return f"{_argument(tool, name)}: {reason}"
    return None


def _narrower(ours: Arguments, theirs: Arguments) -> Arguments | None:
    """Return for each argument the narrower of two constraints, or None if there is none."""
    if not ours or not theirs:
        return ours or theirs
    if ours.keys() != theirs.keys():
        return None
    found = {}
    for name, constraint in ours.items():
        if constraint.widening(theirs[name]) is None:
            found[name] = constraint
        elif theirs[name].widening(constraint) is None:
            found[name] = theirs[name]
        else:
            return None
    return MappingProxyType(found)


def _argument(tool: str, name: str) -> str:
    return f"tool {tool!r}, argument {name[:MAX_NAME_BYTES]!r}"
