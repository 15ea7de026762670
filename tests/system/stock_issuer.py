# SPDX-License-Identifier: Apache-2.0
"""An issuer that offers what a stock SPIRE server does and nothing more: `python -m … run --config FILE`."""

import asyncio
import sys
from pathlib import Path

from issuer.assembly import Issuer
from issuer.config import Config
from spiffekit.daemon import logging as logs
from spiffekit.daemon.config import load
from spiffekit.daemon.lifecycle import run_until_signalled


class StockIssuer(Issuer):
    """Without the services of ours: whoever calls them is told UNIMPLEMENTED."""

    def _ours(self, callers):
        return []


async def run(config):
    logs.configure(config.issuer.log_level, config.issuer.log_format)
    issuer = await StockIssuer.create(config)
    try:
        await run_until_signalled(**issuer.services())
    finally:
        issuer.database.close()


if __name__ == "__main__":
    asyncio.run(run(load(Path(sys.argv[3]), Config, expand_env=False)))
