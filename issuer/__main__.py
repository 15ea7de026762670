# SPDX-License-Identifier: Apache-2.0
"""``python -m issuer`` is the `issuer` command."""

from issuer.cli import main

if __name__ == "__main__":
    main(prog_name="issuer")
