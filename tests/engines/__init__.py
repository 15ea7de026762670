# SPDX-License-Identifier: Apache-2.0
"""Real components that attestors ask, and what attestors say of them."""
