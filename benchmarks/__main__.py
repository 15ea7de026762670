# SPDX-License-Identifier: Apache-2.0
"""Run benchmarks by name, all by default; print tables, and JSON into a file if asked."""

import argparse
import asyncio
import json
import os
import platform
import shutil
import tempfile
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

from benchmarks.measure import table

NAMES = [
    "issue",
    "first_svid",
    "propagate",
    "take_back",
    "registry",
    "streams",
    "attest",
    "kubernetes",
    "audit",
    "policy",
    "tools",
    "gateway",
]


os.environ.setdefault("GRPC_VERBOSITY", "ERROR")


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--json", type=Path, help="write the results here, too")
    parser.add_argument("--full", action="store_true", help="the largest sizes as well")
    options = parser.parse_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    results = {}
    print(f"# {platform.machine()}, Python {platform.python_version()}")
    for name in options.names or NAMES:
        folder = Path(tempfile.mkdtemp(prefix="sa-bench-", dir="/tmp"))
        folder.chmod(0o755)
        try:
            rows = asyncio.run(import_module(f"benchmarks.{name}").run(folder, full=options.full))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        table(name, rows)
        results[name] = [asdict(row) for row in rows]
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


main()
