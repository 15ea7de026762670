# SPDX-License-Identifier: Apache-2.0
"""Inputs with their expected outcome, as JSON: written by `build`, read by our tests and anybody else's."""

import json
from pathlib import Path


def load(name):
    return json.loads(Path(__file__).with_name(f"{name}.json").read_text())
