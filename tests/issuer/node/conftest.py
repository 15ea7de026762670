# SPDX-License-Identifier: Apache-2.0
"""Two software TPMs for the tests of a file."""

import pytest

from tests.engines import swtpm


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    with swtpm.running(tmp_path_factory.mktemp("tpm")) as found:
        yield found


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    with swtpm.running(tmp_path_factory.mktemp("other")) as found:
        yield found
