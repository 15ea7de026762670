# SPDX-License-Identifier: Apache-2.0
"""Issue short-lived SPIFFE identities to attested workloads: registry, authorities, judge."""
