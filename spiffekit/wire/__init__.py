# SPDX-License-Identifier: Apache-2.0
"""Between our values and the network: messages, status codes, TLS."""
