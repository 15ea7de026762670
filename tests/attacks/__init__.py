# SPDX-License-Identifier: Apache-2.0
"""Attacks that have to fail."""
