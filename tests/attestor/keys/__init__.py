# SPDX-License-Identifier: Apache-2.0
"""Tests of the key managers of the attestor."""
