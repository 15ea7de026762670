# SPDX-License-Identifier: Apache-2.0
"""Constraints, what may be derived from them, and values that both could meet.

Everything comes from one small pool, so that values are met and constraints fit each other often: of what is
drawn from all of JSON, nothing ever fits, and a law about what fits would hold for want of cases.
"""

import contextlib

from hypothesis import strategies as st

from spiffekit.delegation.clauses import parse_constraint
from spiffekit.delegation.constraints import Argument
from spiffekit.errors import ConstraintError
from tests.vectors.narrowing import (
    WILDCARD,
    all_of,
    any_of,
    at_most,
    below,
    contains,
    exact,
    not_one_of,
    one_of,
    subset,
    under,
    within,
)

SITE = "https://a.example"
PATHS = ("/", "/srv", "/srv/a", "/srv/ab", "/srv/a/b")
URLS = (f"{SITE}/", f"{SITE}/v1", f"{SITE}/v1/", f"{SITE}/v1/x", f"{SITE}/v1x", "https://a.example.evil/v1")
NUMBERS = (-1, 0, -0.0, 0.5, 1, 1.0, 2, 3.5, 5)
SCALARS = (None, True, False, *NUMBERS, "", "a", "b", "A", "1", "true", *PATHS, *URLS)
ARRAYS = ([], ["a"], ["b", "a"], ["a", "a"], [1], [True], [[]], [None, "a", 1], [["a"]])
STRANGE = (
    "/srv/../etc", "/srv/a/", "srv/a", "/srv/a\0", f"{SITE}/v1?x", f"{SITE}/v1/../", f"{SITE}/v1/%2e%2e/a",
    "https://a.example@evil/", {}, {"a": 1}, {"a": 1.0}, {"a": True}, [{"a": 1}],
    2**53, float("nan"), float("inf"), "\ud800", [float("nan")], object(),
)  # fmt: skip
VALUES = (*SCALARS, *ARRAYS, *STRANGE)
SPENT = (None, 0, 1, 4.5, -3, float("nan"))

scalars = st.sampled_from(SCALARS)
elements = st.sampled_from(("a", "b", 1, True, None, []))
totals = st.sampled_from(NUMBERS).map(at_most)


@st.composite
def ranges(draw):
    bounds = [draw(st.none() | st.sampled_from(NUMBERS)) for _ in range(2)]
    ends = {name: False for name in ("min_inclusive", "max_inclusive") if draw(st.booleans())}
    return within(*bounds, **ends)


def choices(kind, pool=elements):
    return st.lists(pool, max_size=3).map(lambda values: kind(*values))


leaves = st.one_of(
    scalars.map(exact),
    ranges(),
    choices(one_of, scalars | st.sampled_from(ARRAYS)),
    choices(not_one_of, scalars | st.sampled_from(ARRAYS)),
    choices(contains),
    choices(subset),
    st.just(WILDCARD),
    st.sampled_from(PATHS).map(below),
    st.sampled_from(URLS).map(under),
    totals,
)
constraints = leaves | st.recursive(
    leaves,
    lambda inner: st.tuples(st.sampled_from((all_of, any_of)), st.lists(inner, min_size=1, max_size=3)).map(
        lambda drawn: drawn[0](*drawn[1])
    ),
    max_leaves=6,
)


@st.composite
def derived(draw, parent):
    """Draw what somebody might derive from a constraint: mostly narrower, sometimes not."""
    if draw(st.integers(0, 9)) == 0:
        return draw(constraints)
    if draw(st.integers(0, 4)) == 0:
        return exact(draw(scalars))
    match parent["constraint_type"]:
        case "range":
            own = draw(ranges())
            return draw(st.sampled_from((parent, parent | own, own)))
        case "one_of" | "subset" as kind:
            (name,) = parent.keys() - {"constraint_type"}
            kept = [value for value in parent[name] if draw(st.booleans())]
            return {"constraint_type": kind, name: kept}
        case "not_one_of" | "contains" as kind:
            (name,) = parent.keys() - {"constraint_type"}
            return {"constraint_type": kind, name: parent[name] + draw(st.lists(elements, max_size=2))}
        case "wildcard":
            return draw(leaves | constraints)
        case "path_containment":
            return draw(st.sampled_from((below, exact)))(draw(st.sampled_from(PATHS)))
        case "url_prefix":
            return draw(st.sampled_from((under, exact)))(draw(st.sampled_from(URLS)))
        case "max_lifetime":
            return draw(totals)
        case "all":
            own = [draw(derived(clause)) for clause in parent["constraints"]]
            return all_of(*draw(st.permutations(own + draw(st.lists(leaves, max_size=1)))))
        case "any":
            kept = [clause for clause in parent["constraints"] if draw(st.booleans())] or parent[
                "constraints"
            ]
            return any_of(*[draw(derived(clause)) for clause in kept])
    return parent


ARGUMENTS = ("to", "amount")
tools = st.dictionaries(
    st.sampled_from(("pay", "mail")),
    st.dictionaries(st.sampled_from(ARGUMENTS), constraints, max_size=2),
    max_size=2,
)


@st.composite
def derived_tools(draw, parent):
    """Draw what somebody might derive from tools."""
    found = {}
    for tool, arguments in parent.items():
        own = {name: draw(derived(constraint)) for name, constraint in arguments.items()}
        match draw(st.integers(0, 5)):
            case 0 if own:
                own.pop(draw(st.sampled_from(sorted(own))))
            case 1:
                own |= {draw(st.sampled_from(ARGUMENTS)): draw(constraints)}
        if draw(st.booleans()):
            found[tool] = own
    return found


def arguments(value):
    """Return the arguments of a value, with what was spent; none if it is no JSON value."""
    found = []
    for spent in SPENT:
        with contextlib.suppress(ConstraintError):
            found.append(Argument.of(value, spent))
    return found


UNIVERSE = [(value, argument) for value in VALUES for argument in arguments(value)]


def permitted(constraint):
    """Return where in the universe an argument is that the constraint permits."""
    return {at for at, (_, argument) in enumerate(UNIVERSE) if constraint.permits(argument)}


@st.composite
def invocations(draw, tools):
    """Draw a tool, arguments and what was spent: mostly what the tools permit, sometimes anything."""
    tool = draw(st.sampled_from(sorted({"pay", "shell", *tools})))
    given, spent = {}, {}
    for name, constraint in tools.get(tool, {"to": WILDCARD}).items():
        good = sorted(permitted(parse_constraint(constraint)))
        at = draw(st.sampled_from(good) if good else st.sampled_from(range(len(UNIVERSE))))
        given[name], spent[name] = UNIVERSE[at][0], UNIVERSE[at][1].spent
    if draw(st.integers(0, 5)) == 0:
        given[draw(st.sampled_from((*ARGUMENTS, "cc")))] = draw(st.sampled_from(VALUES))
    return tool, given, {name: total for name, total in spent.items() if total is not None}
