# SPDX-License-Identifier: Apache-2.0
"""The vectors in the repository are those that the tables make."""

import pytest

from tests.vectors import build

TEXTS = build.texts()


@pytest.mark.parametrize("name", TEXTS)
def test_vectors_are_up_to_date(name):
    assert build.FOLDER.joinpath(f"{name}.json").read_text() == TEXTS[name], (
        "run python -m tests.vectors.build"
    )


def test_every_file_of_vectors_has_a_table():
    assert {path.stem for path in build.FOLDER.glob("*.json")} == set(TEXTS)
