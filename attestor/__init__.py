# SPDX-License-Identifier: Apache-2.0
"""The daemon on each node: it proves the node, examines processes, and serves them their identities."""
