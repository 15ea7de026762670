# SPDX-License-Identifier: Apache-2.0
"""Paths and URLs in one spelling, so that what lies below another shows in their text.

Nothing is resolved, decoded or normalised: whoever uses a name may do that in another way than we would, and
land elsewhere. What could be read in two ways is refused.
"""

import re
import unicodedata
from typing import Final

from spiffekit.delegation.values import text
from spiffekit.errors import ConstraintError

MAX_BYTES: Final = 4096
_PATH: Final = re.compile(r"/|(?:/[^/\\\x00-\x1f\x7f]+)+")
# No user information, no `;` (some servers cut a segment off there), and nothing encoded that would be a dot,
# a slash, a backslash, a percent or a control character.
_ENCODED: Final = r"%(?!2[EeFf5]|5[Cc]|[01]|7[Ff])[0-9A-Fa-f]{2}"
_SEGMENT: Final = rf"(?:[A-Za-z0-9._~!$&'()*+,=:@-]|{_ENCODED})"
_URL: Final = re.compile(
    r"(?P<place>https?://[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?(?::[1-9][0-9]{0,4})?"
    rf"(?:/{_SEGMENT}+)*/?)"
    r"(?P<query>\?[A-Za-z0-9._~!$&'()*+,;=:@/?%-]*)?",
    re.ASCII,
)


def path(value: object) -> str:
    """Return an absolute path that has one spelling, such as "/srv/reports".

    Raises:
        ConstraintError: It is none: relative, with `.`, `..`, an empty segment, a slash at the end, a
            backslash or a control character, or with what Unicode (NFKC) takes for one of these.
    """
    found = text(value, MAX_BYTES)
    for spelling in (found, unicodedata.normalize("NFKC", found)):
        if not _PATH.fullmatch(spelling) or _dotted(spelling):
            raise ConstraintError(
                "is not an absolute path without `.`, `..`, `//`, `\\` and a slash at its end"
            )
    return found


def url(value: object) -> tuple[str, str]:
    """Return an http or https URL without its query, such as "https://api.example.org/v1", and its query.

    Raises:
        ConstraintError: It is none, or could be read in two ways.
    """
    found = _URL.fullmatch(text(value, MAX_BYTES))
    if not found or found["place"].count("/") < 3 or _dotted(found["place"]):
        raise ConstraintError("is not an http or https URL with a path, in its plain spelling")
    return found["place"], found["query"] or ""


def below(place: str, root: str) -> bool:
    """Tell whether a place is the root or lies below it, segment by segment."""
    return place == root or place.startswith(root if root.endswith("/") else root + "/")


def _dotted(place: str) -> bool:
    return not {".", ".."}.isdisjoint(place.split("/"))
