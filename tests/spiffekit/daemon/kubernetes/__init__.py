# SPDX-License-Identifier: Apache-2.0
"""Tests of what both daemons need of Kubernetes."""
