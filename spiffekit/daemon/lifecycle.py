# SPDX-License-Identifier: Apache-2.0
"""Run services in order until a signal comes or one of them fails.

A service is a coroutine function that calls its argument once when it is ready and then runs until it
is cancelled. There is no `stop`: cancelling is the only end, and a service ends its own work in `finally`.
"""

import asyncio
import gc
import signal
from collections.abc import Awaitable, Callable
from typing import NoReturn

Service = Callable[[Callable[[], None]], Awaitable[NoReturn]]
"""A coroutine function that calls its argument once when it is ready, and then runs until cancelled."""


class _StopRequested(Exception):  # noqa: N818 - not an error: it brings the group down
    """Raised inside the group to bring it down; never leaves this module."""


async def run_until_signalled(**services: Service) -> None:
    """Run services until SIGTERM or SIGINT, or until one of them fails.

    Each is started only when the one before it is ready, so later ones may rely on
    earlier ones. All are cancelled together: a service ends its own work in `finally`.

    Raises:
        ExceptionGroup: One or more services failed.
    """
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_raise_on_signal(), name="signals")
            for name, service in services.items():
                ready = asyncio.Event()
                group.create_task(_forever(name, service, ready), name=name)
                await ready.wait()
            # What is here now stays until the end. To look through it for garbage again and again would stop
            # everybody for tens of milliseconds, or half a second with a million entries.
            gc.collect()
            gc.freeze()
    except* _StopRequested:
        pass
    finally:
        gc.unfreeze()


async def _forever(name: str, service: Service, ready: asyncio.Event) -> NoReturn:
    await service(ready.set)
    raise RuntimeError(f"service {name!r} returned; services run until they are cancelled")


async def _raise_on_signal() -> NoReturn:
    loop, received = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, received.set)
    try:
        await received.wait()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
    raise _StopRequested
