# SPDX-License-Identifier: Apache-2.0
"""Calls of the entry service, as operators make them."""

from spiffekit.wire.pb.spire.api import types_pb2
from spiffekit.wire.pb.spire.api.server.entry.v1 import entry_pb2
from tests.issuer_api.world import id_message


def message(path="/web", **changes):
    fields = {
        "spiffe_id": id_message(path),
        "parent_id": id_message("/spire/agent/test/n1"),
        "selectors": [types_pb2.Selector(type="unix", value="uid:1000")],
    }
    return types_pb2.Entry(**fields | changes)


async def create(stub, *messages, mask=None):
    request = entry_pb2.BatchCreateEntryRequest(entries=messages, output_mask=mask)
    return list((await stub.BatchCreateEntry(request)).results)


async def create_one(stub, *args, **changes):
    (result,) = await create(stub, message(*args, **changes))
    assert result.status == types_pb2.Status(message="OK")
    return result.entry


async def update(stub, *messages, mask=None):
    request = entry_pb2.BatchUpdateEntryRequest(entries=messages, input_mask=mask)
    return list((await stub.BatchUpdateEntry(request)).results)


async def get(stub, entry_id, mask=None):
    return await stub.GetEntry(entry_pb2.GetEntryRequest(id=entry_id, output_mask=mask))
