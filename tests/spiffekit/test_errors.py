# SPDX-License-Identifier: Apache-2.0
"""The tree of errors, and what importing the library brings along."""

import inspect
import subprocess
import sys

import pytest

import spiffekit
from spiffekit import errors

CLASSES = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_error_is_one_of_the_library_and_stands_in_the_tree(kind):
    assert issubclass(kind, errors.SpiffeError)
    assert f" {kind.__name__} " in errors.__doc__.replace("\n", " ")


def test_what_is_malformed_is_not_what_is_untrusted():
    malformed = {errors.SvidError, errors.BundleError, errors.SpiffeIdError, errors.UnsupportedKeyError}
    assert not any(issubclass(kind, errors.VerificationError) for kind in malformed)
    assert issubclass(errors.SpiffeIdError, ValueError)
    assert issubclass(errors.SelectorError, ValueError)


def test_everything_that_is_exported_is_there():
    assert all(hasattr(spiffekit, name) for name in spiffekit.__all__)


def test_the_library_loads_neither_protobuf_nor_grpc():
    """So that it lives beside any other library that registers the standard's messages."""
    program = "import sys, spiffekit; print([m for m in sys.modules if m.startswith(('google', 'grpc'))])"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
