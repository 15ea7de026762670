# SPDX-License-Identifier: Apache-2.0
"""What it takes to run the daemons somewhere."""
