# SPDX-License-Identifier: Apache-2.0
"""Tests of the key managers, beside the contract that they share."""
