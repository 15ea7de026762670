# SPDX-License-Identifier: Apache-2.0
"""Whose user namespace a process is in, by the kernel's word; as whom it runs there is another thing."""

import fcntl
import os
import struct
from typing import Final

from attestor.errors import WorkloadAttestationError
from attestor.peer import Process

MAX_DEPTH: Final = 33  # the kernel nests user namespaces 32 deep
_NS_GET_PARENT: Final = 0xB702  # ioctl_ns(2)
_NS_GET_OWNER_UID: Final = 0xB704


def made_by(process: Process, uid: int) -> bool:
    """Tell whether the process's user namespace, or one above it, was made by a user.

    Raises:
        WorkloadAttestationError: The process has exited, or may not be examined.
    """
    try:
        namespace = os.open(process.proc / "ns" / "user", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise WorkloadAttestationError(f"user namespace cannot be read: {error.strerror}") from error
    try:
        for _ in range(MAX_DEPTH):
            if struct.unpack("I", fcntl.ioctl(namespace, _NS_GET_OWNER_UID, bytes(4)))[0] == uid:
                return True
            above = fcntl.ioctl(namespace, _NS_GET_PARENT)
            os.close(namespace)
            namespace = above
    except PermissionError:
        return False  # the next one is ours, or above ours
    finally:
        os.close(namespace)
    return False
