# SPDX-License-Identifier: Apache-2.0
"""The forms of what is told for the audit trail: the attestor takes nothing that the issuer would reject."""

import re
from typing import Final

MAX_NUMBER: Final = 2**53 - 1  # RFC 8785 §3.2.2.3: what every reader of JSON keeps exact
MAX_TEXT: Final = 256  # bytes of a reason or an action
MAX_NAMES: Final = 100  # statements of policies
RUN_BYTES: Final = 16  # that name a run of a process
TOKENS: Final = ("jwt-svid", "wit-svid")  # which have no serial number
KINDS: Final = ("mtls", *TOKENS, "delegation", "policy")  # of verifications
MAX_SERIAL: Final = 10**49 - 1  # RFC 5280 §4.1.2.2: at most 20 bytes
SERIAL: Final = re.compile(r"[1-9][0-9]{0,48}", re.ASCII)
HASH: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
NAME: Final = re.compile(r"[!-~]{1,255}", re.ASCII)  # of a token, a transaction or a statement
