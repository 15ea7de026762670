# SPDX-License-Identifier: Apache-2.0
"""What both daemons need of Kubernetes.

Its objects cut to what counts, a small client, a watch, and the facts of a pod as selectors: the attestor
states those, and the issuer holds them to the cluster's word.
"""
