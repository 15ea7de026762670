# SPDX-License-Identifier: Apache-2.0
"""A process that nobody registered. It asks for an identity, is refused, and stays to be looked at."""

import asyncio

from spiffekit.errors import NoIdentityIssuedError
from spiffekit.workload import WorkloadApi


async def main() -> None:
    async with WorkloadApi.connect() as api:
        try:
            await api.fetch_x509()
        except NoIdentityIssuedError as error:
            print(f"refused {error}", flush=True)
        await asyncio.Event().wait()


asyncio.run(main())
