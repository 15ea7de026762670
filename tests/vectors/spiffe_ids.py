# SPDX-License-Identifier: Apache-2.0
"""SPIFFE IDs, good and bad, by the rule that they show (SPIFFE-ID §2)."""

GOOD = {
    "without path": ["spiffe://example.org", "spiffe://td"],
    "path": ["spiffe://example.org/a", "spiffe://example.org/a/B-1_x.y", "spiffe://td/Ns-1/sa_x.y"],
    "trust domain": ["spiffe://a_b.example/foo", "spiffe://a-b_c.0/x"],
    "looks like an address": ["spiffe://1.2.3.4/a", "spiffe://1.2.3.4", "spiffe://999.999.999.999/a"],
    "no rule of DNS": [
        "spiffe://example..org/p",
        "spiffe://-x-/p",
        "spiffe://./a",
        "spiffe://xn--e28h.org/a",
        f"spiffe://{'l' * 64}.org/a",
    ],
    "no dot segment": ["spiffe://td/...", "spiffe://td/.a", "spiffe://td/..a", "spiffe://td/a."],
    "longest": [f"spiffe://td/{'a' * 2036}", f"spiffe://{'t' * 255}", f"spiffe://td{'/abc' * 509}"],
}

BAD = {
    "empty": ("SPIFFE ID is empty", [""]),
    "scheme": (
        "scheme of {} is not 'spiffe'",
        [
            "http://example.org/a",
            "https://example.org/a",
            "spiffe:/example.org",
            "spiffe:example.org",
            "spiffe",
            "s",
            "//example.org/a",
            " spiffe://td/a",
            "\tspiffe://td/a",
        ],
    ),
    "scheme in upper case": (
        "scheme of {} is not 'spiffe'",
        ["SPIFFE://td/a", "Spiffe://td/a", "\u017fpiffe://td/a"],
    ),
    "no trust domain": ("trust domain is missing", ["spiffe://", "spiffe:///a"]),
    "query": (None, ["spiffe://td/a?x=1", "spiffe://td?x", "spiffe://td/a?"]),
    "fragment": (None, ["spiffe://td/a#f", "spiffe://td#f", "spiffe://td/a#"]),
    "user information": (None, ["spiffe://u@td/a", "spiffe://u:p@td/a", "spiffe://@td/a"]),
    "port": (None, ["spiffe://td:80/a", "spiffe://td:/a"]),
    "trust domain in upper case": (None, ["spiffe://Example.org/a", "spiffe://TD", "spiffe://\u212a.org/a"]),
    "trust domain": (
        None,
        [
            "spiffe://ex~ample/a",
            "spiffe://ex\u00e1mple.org/a",
            "spiffe://a b/c",
            "spiffe://td\n/a",
            "spiffe://td\n",
            "spiffe://td\\a",
            "spiffe://\u0661.org/a",
            "spiffe://spiffe://a",
        ],
    ),
    "bracketed address": (None, ["spiffe://[::1]/a", "spiffe://[::1]"]),
    "percent in trust domain": (None, ["spiffe://ex%61mple.org/a", "spiffe://td%2fa"]),
    "percent in path": (
        None,
        ["spiffe://td/a%20b", "spiffe://td/%61", "spiffe://td/foo%2Fbar", "spiffe://td/%2e%2e/a"],
    ),
    "empty segment": (
        "path cannot contain empty segments",
        ["spiffe://td//a", "spiffe://td/a//b", "spiffe://td///a"],
    ),
    "dot segment": (
        "path cannot contain dot segments",
        ["spiffe://td/.", "spiffe://td/..", "spiffe://td/a/./b", "spiffe://td/a/../b", "spiffe://td/a/.."],
    ),
    "trailing slash": (
        "path cannot have a trailing slash",
        ["spiffe://td/", "spiffe://td/a/", "spiffe://td//"],
    ),
    "path": (
        None,
        [f"spiffe://td/{segment}" for segment in ("a~b", "a:b", "a@b", "a;b", "a b", "a*", "a\\b", "a,b")]
        + [
            "spiffe://td/\u00e4",
            "spiffe://td/a\n",
            "spiffe://td/a\x00",
            "spiffe://td/a\r\nb",
            "spiffe://td/a ",
        ],
    ),
    "too long": (
        "SPIFFE ID is longer than 2048 bytes",
        [f"spiffe://td/{'a' * 2037}", f"spiffe://td{'/abc' * 510}"],
    ),
    "trust domain too long": ("trust domain is longer than 255 bytes", [f"spiffe://{'t' * 256}/a"]),
}


def build():
    """Return the vectors: `message` is our wording, which others need not share."""
    good = [{"id": text, "rule": rule} for rule, texts in GOOD.items() for text in texts]
    bad = [
        {"id": text, "rule": rule, "message": message and message.format(repr(text))}
        for rule, (message, texts) in BAD.items()
        for text in texts
    ]
    return {"good": good, "bad": bad}
