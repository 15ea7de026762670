# SPDX-License-Identifier: Apache-2.0
"""What may and may not be derived from what: constraints and tools, by the rule or pitfall that they show."""


def exact(value):
    return {"constraint_type": "exact", "value": value}


def within(low=None, high=None, **ends):
    bounds = {name: bound for name, bound in (("min", low), ("max", high)) if bound is not None}
    return {"constraint_type": "range"} | bounds | ends


def one_of(*values):
    return {"constraint_type": "one_of", "values": list(values)}


def not_one_of(*values):
    return {"constraint_type": "not_one_of", "excluded": list(values)}


def contains(*values):
    return {"constraint_type": "contains", "required": list(values)}


def subset(*values):
    return {"constraint_type": "subset", "allowed": list(values)}


def all_of(*clauses):
    return {"constraint_type": "all", "constraints": list(clauses)}


def any_of(*clauses):
    return {"constraint_type": "any", "constraints": list(clauses)}


def below(root):
    return {"constraint_type": "path_containment", "root": root}


def under(prefix):
    return {"constraint_type": "url_prefix", "prefix": prefix}


def at_most(total):
    return {"constraint_type": "max_lifetime", "max": total}


WILDCARD = {"constraint_type": "wildcard"}
OPEN_LOW, OPEN_HIGH = {"min_inclusive": False}, {"max_inclusive": False}
API = "https://api.example.org/v1"

# rule: pairs of (derived, parent)
NARROWER = {
    "the same": [(exact("a"), exact("a")), (within(1, 2), within(1, 2)), (WILDCARD, WILDCARD)],
    "numbers by value": [(exact(1), exact(1.0)), (one_of(2.0), one_of(2, 3)), (exact(-0.0), exact(0))],
    "exact within": [(exact(2), within(1, 3)), (exact("a"), one_of("a", "b")), (exact(3), within())],
    "range": [
        (within(1, 2), within(0, 5)),
        (within(1, 2), within()),
        (within(1, 2, **OPEN_LOW), within(1, 2)),
        (within(1, 2, **OPEN_HIGH), within(1, 2)),
        (within(1, 2), within(0, 2, **OPEN_LOW)),
    ],
    "a range whose bounds cross": [(within(5, 1), within(5, 1)), (within(5, 1), within(0, 9))],
    "sets": [
        (one_of("a"), one_of("a", "b")),
        (one_of(), one_of("a")),
        (not_one_of("a", "b"), not_one_of("a")),
        (contains("a", "b"), contains("a")),
        (subset("a"), subset("b", "a")),
        (one_of({"a": 1, "b": [2]}), one_of({"b": [2.0], "a": 1})),
    ],
    "anything within a wildcard": [
        (derived, WILDCARD)
        for derived in (
            exact(None), within(), one_of("a"), not_one_of(), contains(), subset(), below("/"),
            under(API + "/"), at_most(5), all_of(exact(1)), any_of(exact(1)),
        )
    ],
    "all": [
        (all_of(exact("a"), one_of(1, 2)), all_of(one_of(1, 2, 3), exact("a"))),
        (all_of(WILDCARD, exact("b"), exact("a")), all_of(exact("a"))),
        (all_of(within(0, 1), within(0, 9)), all_of(within(0, 9), within(0, 5))),
    ],
    "any": [
        (any_of(exact("a")), any_of(exact("a"), exact("b"))),
        (any_of(exact("a"), exact("b")), any_of(one_of("a", "b", "c"))),
        (any_of(exact("a"), within(1, 2)), any_of(WILDCARD)),
    ],
    "paths": [
        (below("/srv/a"), below("/srv")),
        (below("/srv"), below("/")),
        (exact("/srv/a/b"), below("/srv/a")),
        (exact("/srv"), below("/srv")),
    ],
    "URLs": [
        (under(API + "/users"), under(API)),
        (under(API + "/"), under(API)),
        (exact(API + "/users?x=1"), under(API)),
        (exact(API), under(API)),
    ],
    "total": [(at_most(5), at_most(5)), (at_most(1.5), at_most(2))],
}  # fmt: skip

WIDER = {
    "another value": [(exact(own), exact(other)) for own, other in ("ba", "Aa", ("\u00e9", "e\u0301"))],
    "upper case of a UUID": [
        (exact("0195F7A3-4E23-7B01-A9D1-0050569C2E4F"), exact("0195f7a3-4e23-7b01-a9d1-0050569c2e4f"))
    ],
    "true is not 1": [(exact(True), exact(1)), (exact(0), exact(False)), (exact(True), within(0, 1))],
    "1 is not its text": [(exact("1"), exact(1)), (exact("1"), within(0, 2)), (exact("null"), exact(None))],
    "exact outside": [(exact(4), within(1, 3)), (exact("c"), one_of("a", "b"))],
    "exact on an open end": [(exact(3), within(1, 3, **OPEN_HIGH)), (exact(1), within(1, 3, **OPEN_LOW))],
    "range": [
        (within(0, 5), within(1, 5)),
        (within(1, 6), within(1, 5)),
        (within(), within(1)),
        (within(1), within(1, 5)),
        (within(None, 5), within(1, 5)),
    ],
    "an end that opens again": [
        (within(1, 2), within(1, 2, **OPEN_LOW)),
        (within(1, 2), within(1, 2, **OPEN_HIGH)),
    ],
    "sets": [
        (one_of("a", "c"), one_of("a", "b")),
        (not_one_of("a"), not_one_of("a", "b")),
        (contains("a"), contains("a", "b")),
        (subset("a", "b"), subset("a")),
        (one_of({"a": 1}), one_of({"a": True})),
        (one_of([1, 2]), one_of([2, 1])),
    ],
    "exclusions against a choice": [(not_one_of("c"), one_of("a", "b")), (one_of("a"), not_one_of("b"))],
    "a wildcard against anything else": [
        (WILDCARD, parent)
        for parent in (
            exact(1), within(), one_of("a"), not_one_of(), contains(), subset(), below("/"), under(API),
            at_most(5), all_of(WILDCARD), any_of(WILDCARD),
        )
    ],
    "pairs of types that nobody declares": [
        (one_of(1, 2), within(1, 2)),
        (within(1, 1), exact(1)),
        (one_of("a"), exact("a")),
        (exact("a"), any_of(exact("a"))),
        (exact("a"), all_of(exact("a"))),
        (all_of(exact("a")), exact("a")),
        (any_of(exact("a")), one_of("a")),
        (contains("a"), subset("a")),
        (subset("a"), contains()),
        (one_of("/srv/a"), below("/srv")),
        (below("/srv"), under(API)),
        (exact(1), at_most(5)),
        (within(0, 5), at_most(5)),
        (at_most(5), within(0, 5)),
        (exact("a"), not_one_of("b")),
    ],
    "all drops a clause": [
        (all_of(exact("a")), all_of(exact("a"), within(0, 5))),
        (all_of(within(0, 5)), all_of(within(0, 9), within(0, 7))),
        (all_of(exact("a")), all_of(exact("a"), exact("a"))),
    ],
    "all with a clause that serves two": [
        (all_of(within(0, 1), within(0, 9)), all_of(within(0, 5), within(0, 5))),
        (all_of(within(0, 1), WILDCARD, WILDCARD), all_of(within(0, 5), within(0, 9))),
    ],
    "any adds a clause": [
        (any_of(exact("a"), exact("x")), any_of(one_of("a", "b"), exact("c"))),
        (any_of(exact("a"), WILDCARD), any_of(exact("a"))),
    ],
    "a composite in a composite": [
        (all_of(any_of(exact("a"), exact("b"))), all_of(any_of(exact("a")))),
        (any_of(all_of(within(0, 9))), any_of(all_of(within(0, 5)))),
    ],
    "a path that only begins alike": [
        (below("/srv/ab"), below("/srv/a")),
        (below("/srv"), below("/srv/a")),
        (exact("/srv/ab"), below("/srv/a")),
        (exact("/SRV/a"), below("/srv")),
    ],
    "a path that leads out": [
        (exact(path), below("/srv/a"))
        for path in (
            "/srv/a/../b", "/srv/a/..", "/srv/a/./../b", "/srv/a//../b", "srv/a/b", "/srv/a/..\\b",
            "/srv/a\0/b", "/srv/a/\uff0e\uff0e/b", "/srv/a/\u2025/b", "/srv/a/..\uff0fb", "",
        )
    ],
    "a URL that only begins alike": [
        (exact(url), under(API))
        for url in (
            API + "beta", "https://api.example.org/", "http://api.example.org/v1", "https://api.example.org.evil.com/v1",
            "https://api.example.org:8443/v1", "https://api.example.org:443/v1", "https://API.example.org/v1",
            "https://api.example.org@evil.com/v1", "https://evil.com/https://api.example.org/v1",
            "https://api.example.org./v1",
        )
    ],
    "a URL that leads out": [
        (exact(API + rest), under(API))
        for rest in (
            "/../admin", "/..", "/%2e%2e/admin", "/%2E./admin", "/..%2fadmin", "/..%5cadmin",
            "/%252e%252e/admin", "/..;/admin", "/..\\admin", "//..//admin", "/.", "/a\n", "/a#b", "/a b",
            "/\u2025/a", "/a%0a", "/a%zz",
        )
    ],
    "a prefix that is shorter": [
        (under("https://api.example.org/"), under(API)),
        (under(API), under(API + "/")),
        (under("https://api.example.org/v10"), under(API)),
    ],
    "total": [(at_most(6), at_most(5))],
}  # fmt: skip

MALFORMED = {
    "no object": [None, [], "exact", 1],
    "no type, or another": [
        {}, {"constraint_type": "regex", "pattern": ".*"}, {"constraint_type": ["exact"]},
        {"type": "wildcard"},
    ],
    "no member": [{"constraint_type": kind} for kind in (
        "exact", "one_of", "not_one_of", "contains", "subset", "all", "any", "path_containment", "url_prefix",
        "max_lifetime",
    )],
    "another member": [
        exact("a") | {"ignored": True}, WILDCARD | {"value": 1}, within(1) | {"exclusive": True},
        one_of("a") | {"excluded": []},
    ],
    "empty composite": [all_of(), any_of(), any_of(all_of())],
    "composite of no array": [{"constraint_type": "any", "constraints": {}}, all_of("exact")],
    "numbers that readers take for others": [
        exact(2**53), exact(-(2**53)), within(0, 2**53), one_of(10**400), within(1e16), at_most(2**60),
        one_of([{"a": 2**53}]),
    ],
    "bounds that are no numbers": [within("1"), within(True), within(1, None) | {"min": None}, at_most("5")],
    "ends that are no booleans": [within(1, min_inclusive=1), within(1, max_inclusive=None)],
    "exact of no scalar": [exact([]), exact({"a": 1})],
    "values of no array": [
        {"constraint_type": "one_of", "values": "abc"}, {"constraint_type": "subset", "allowed": {}},
    ],
    "paths with two spellings": [
        below(root)
        for root in ("", "srv", "/srv/", "//srv", "/srv//a", "/srv/..", "/srv/.", "/srv\\a", "/s\n", 1)
    ],
    "URLs with two spellings": [
        under(prefix)
        for prefix in (
            "", "https://a", "ftp://a/", "https:///v1", "https://A/", "https://u@a/", "https://a/?q", "https://a/#f",
            "https://a/../", "https://a/%2e/", "https://a:0/", "https://a//b", "https://\u00e9/", "//a/", "https://a./",
            7,
        )
    ],
}  # fmt: skip


def pay(**arguments):
    return {"pay": arguments}


# rule: triples of (derived, parent, what the message says of it, or None where it is narrower)
TOOLS = {
    "the same": [(pay(amount=within(0, 5)), pay(amount=within(0, 5)), None), ({}, {}, None)],
    "fewer tools": [({}, pay(), None), (pay(), pay() | {"mail": {}}, None)],
    "another tool": [
        ({"shell": {}}, pay(), "tool 'shell' is none of the parent's"),
        ({"Pay": {}}, pay(), "tool 'Pay' is none of the parent's"),
        ({"mcp://a/%70ay": {}}, {"mcp://a/pay": {}}, "tool 'mcp://a/%70ay' is none of the parent's"),
    ],
    "arguments of a tool that takes any": [(pay(amount=within(0, 5)), pay(), None)],
    "no constraints any more": [
        (pay(), pay(amount=WILDCARD), "tool 'pay', argument 'amount' is limited on one side only")
    ],
    "an argument less": [
        (
            pay(amount=within(0, 5)),
            pay(amount=within(0, 5), vendor=one_of("acme")),
            "tool 'pay', argument 'vendor' is limited on one side only",
        )
    ],
    "an argument more": [
        (
            pay(amount=within(0, 5), note=WILDCARD),
            pay(amount=within(0, 5)),
            "tool 'pay', argument 'note' is limited on one side only",
        )
    ],
    "an argument that is wider": [
        (pay(amount=within(0, 6)), pay(amount=within(0, 5)), "tool 'pay', argument 'amount': max is higher"),
    ],
}


def build():
    """Return the vectors: `message` is our wording, which others need not share."""

    def pairs(table):
        return [{"rule": rule, "derived": d, "parent": p} for rule, found in table.items() for d, p in found]

    return {
        "narrower": pairs(NARROWER),
        "wider": pairs(WIDER),
        "malformed": [
            {"rule": rule, "constraint": bad} for rule, found in MALFORMED.items() for bad in found
        ],
        "tools": [
            {"rule": rule, "derived": derived, "parent": parent, "message": message}
            for rule, found in TOOLS.items()
            for derived, parent, message in found
        ],
    }
