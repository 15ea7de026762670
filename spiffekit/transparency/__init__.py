# SPDX-License-Identifier: Apache-2.0
"""Transparency logs: what was recorded can neither be changed nor left out without being noticed.

``merkle`` has the tree of RFC 9162 §2.1, ``tiles`` its form in files (C2SP tlog-tiles), ``notes`` the signed
heads (signed-note, tlog-checkpoint, tlog-cosignature), and ``proofs`` what is handed to others (tlog-proof,
and the request to a witness of tlog-witness). All of it is pure: bytes come in and go out.
"""
