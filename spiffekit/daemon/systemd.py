# SPDX-License-Identifier: Apache-2.0
"""Tell systemd how we are (sd_notify(3)): one datagram, and nothing at all outside systemd."""

import logging
import os
import socket

logger = logging.getLogger(__name__)


def notify(state: str, address: str | None = None) -> None:
    """Send e.g. "READY=1" to `address`, or to the socket that systemd named in NOTIFY_SOCKET."""
    target = address if address is not None else os.environ.get("NOTIFY_SOCKET", "")
    if not target:
        return
    if target.startswith("@"):
        target = "\0" + target[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        try:
            sender.sendto(state.encode(), target)
        except OSError as error:  # no reason to stop serving
            logger.warning("systemd cannot be told", extra={"reason": str(error)})
