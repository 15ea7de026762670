# SPDX-License-Identifier: Apache-2.0
"""``python -m attestor`` is the `attestor` command."""

from attestor.cli import main

if __name__ == "__main__":
    main(prog_name="attestor")
