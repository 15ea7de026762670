# SPDX-License-Identifier: Apache-2.0
"""The issuer's API over its real listeners: every service, every kind of caller."""
