# SPDX-License-Identifier: Apache-2.0
"""The issuer's gRPC services: parse, authorise, act, audit, answer."""
