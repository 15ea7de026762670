# SPDX-License-Identifier: Apache-2.0
"""Why the issuer denies a call: a number in the details of its status, which SPIRE's servers send as well."""

import grpc
from google.protobuf.message import DecodeError

from spiffekit.wire.pb.spire.api import types_pb2


def denial_reason(error: grpc.aio.AioRpcError) -> int:
    """Return the typed reason of a denial, 0 if there is none."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            marker = b"spire.api.types.PermissionDeniedDetails"
            # google.rpc.Status: the packed detail follows its type's name as field 2.
            position = value.find(marker)
            if position >= 0 and len(value) > position + len(marker) + 2:
                detail = value[position + len(marker) + 2 :]
                try:
                    return int(types_pb2.PermissionDeniedDetails.FromString(detail).reason)
                except DecodeError:
                    return 0
    return 0
