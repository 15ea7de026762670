# SPDX-License-Identifier: Apache-2.0
"""Writes the vectors anew: ``python -m tests.vectors.build``. The same tables give the same bytes."""

import json
from pathlib import Path

from tests.vectors import bundles, jwt_svids, narrowing, spiffe_ids, wit_svids, x509_svids

TABLES = {
    "bundles": bundles,
    "jwt_svids": jwt_svids,
    "narrowing": narrowing,
    "spiffe_ids": spiffe_ids,
    "wit_svids": wit_svids,
    "x509_svids": x509_svids,
}
FOLDER = Path(__file__).parent


def texts():
    """Return the text of each file of vectors, by name."""
    return {name: json.dumps(table.build(), indent=1) + "\n" for name, table in TABLES.items()}


if __name__ == "__main__":
    for name, text in texts().items():
        FOLDER.joinpath(f"{name}.json").write_text(text)
