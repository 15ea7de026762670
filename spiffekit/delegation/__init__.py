# SPDX-License-Identifier: Apache-2.0
"""Authority that only narrows: what an agent may do, and what it may hand on.

``values`` has JSON values as they are compared, ``resources`` paths and URLs in one spelling, ``constraints``
the rules for one argument, ``clauses`` those made of others, and ``tools`` the rules for all tools. All of it
is pure.

The rules are those of draft-niyikiza-oauth-attenuating-agent-tokens-01 (§3.3, §3.4, §4.5), an individual
draft that may change; `path_containment`, `url_prefix` and `max_lifetime` are ours.
"""
