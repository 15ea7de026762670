# SPDX-License-Identifier: Apache-2.0
"""Where the node's own private key lives."""
