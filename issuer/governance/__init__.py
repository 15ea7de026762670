# SPDX-License-Identifier: Apache-2.0
"""Agents that someone owns: their life, and what they may have."""
