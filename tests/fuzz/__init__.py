# SPDX-License-Identifier: Apache-2.0
"""Parsers against hostile input: whatever comes in, only our own errors come out."""
