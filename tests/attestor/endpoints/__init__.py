# SPDX-License-Identifier: Apache-2.0
"""What processes and operators of this node may call."""
