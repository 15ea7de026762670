# SPDX-License-Identifier: Apache-2.0
"""Requirements that no test claims, and why."""

GAPS = {
    "JWT-15": "advice to those who choose audiences",
    "JWT-20": "the library hands out tokens; how they travel over HTTP is up to the application",
    "JWT-21": "the library hands out tokens; how they travel over gRPC is up to the application",
    "WIT-33": "a permission that we do not use: each process has a key of its own",
    "WIT-39": "a permission that we do not use",
    "WIT-47": "the library hands out tokens and proofs; how they travel is up to the application",
    "BND-09": "who polls comes with federation; the hint is kept and handed on",
    "BND-15": "addressed to the authors of SVID documents",
    "BND-21": "bundle maps come with federation",
    "BND-22": "bundle maps come with federation",
    "BND-23": "bundle maps come with federation",
    "BND-24": "bundle maps come with federation",
    "BND-25": "bundle maps come with federation",
    "BND-26": "bundle maps come with federation",
    "BND-27": "bundle maps come with federation",
    "BND-30": "advice to operators; each trust domain's issuer makes its own keys",
    "WLAPI-02": "a permission that we do not use: both profiles are always served",
    "WLAPI-11": "a permission that we do not use",
    "WLAPI-58": "our client takes no keys: it lets the attestor prove",
    "WLAPI-60": "our client takes no keys: it lets the attestor prove",
}
