# SPDX-License-Identifier: Apache-2.0
"""Tests of the issuer, in the folders of its code."""
