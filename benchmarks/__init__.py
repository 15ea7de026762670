# SPDX-License-Identifier: Apache-2.0
"""What is measured, each with its reference in the same run: `make bench`, or `python -m benchmarks NAME`."""
