# SPDX-License-Identifier: Apache-2.0
"""Many attestors in one process group: real daemons, forked from one program that has loaded them.

Usage: python -m benchmarks.fleet CONFIG…

Each writes its log beside its configuration. All end with the standard input.
"""

import os
import signal
import sys

import attestor.assembly  # noqa: F401 - loaded once, for all
from attestor.cli import main as attestor_main


def main():
    children = []
    for config in sys.argv[1:]:
        if (pid := os.fork()) == 0:
            log = os.open(
                config.removesuffix(".toml") + ".log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644
            )
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(log, 1)
            os.dup2(log, 2)
            attestor_main(["run", "--config", config])
        children.append(pid)
    sys.stdin.read()
    for pid in children:
        os.kill(pid, signal.SIGTERM)
    for pid in children:
        os.waitpid(pid, 0)


main()
