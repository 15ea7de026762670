# SPDX-License-Identifier: Apache-2.0
"""Tests of the attestor's halves of node attestation."""
