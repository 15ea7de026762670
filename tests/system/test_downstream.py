# SPDX-License-Identifier: Apache-2.0
"""A story of an issuer below ours: what its key signs is believed on every node, until it ends."""

import asyncio
import contextlib
import json
from datetime import UTC, datetime, timedelta

import grpc
import pytest

from spiffekit.errors import WorkloadApiError
from spiffekit.testing import TestCA
from spiffekit.wire import tls
from spiffekit.wire.pb.spire.api import types_pb2
from spiffekit.wire.pb.spire.api.server.bundle.v1 import bundle_pb2, bundle_pb2_grpc
from spiffekit.workload import WorkloadApi
from tests.system.conftest import UID, eventually, ids_of
from tests.system.test_evidence import audit

NESTED = "spiffe://example.org/nested"
LEGACY = "spiffe://example.org/legacy"


@contextlib.asynccontextmanager
async def calling(local, attestor):
    """The bundle service, called over mTLS with the X.509-SVID that the attestor gives this process."""
    async with WorkloadApi.connect(attestor.endpoint) as api:
        update = await api.fetch_x509()
    (svid,) = update.svids
    roots = [a.certificate_der for bundle in update.bundles for a in bundle.x509_authorities]
    tunnel = tls.Tunnel(
        lambda: asyncio.open_connection(
            "127.0.0.1", local.port, ssl=tls.client_context(svid, roots), server_hostname="issuer"
        )
    )
    async with tunnel.open() as target:
        options = [("grpc.default_authority", "localhost")]
        async with grpc.aio.insecure_channel(target, options=options) as channel:
            yield bundle_pb2_grpc.BundleStub(channel)


async def publish(stub, authority):
    expires_at = int((datetime.now(UTC) + timedelta(hours=1)).timestamp())
    key = types_pb2.JWTKey(
        key_id=authority.key_id, public_key=authority.public_key_der, expires_at=expires_at
    )
    request = bundle_pb2.PublishJWTAuthorityRequest(jwt_authority=key)
    answer = await stub.PublishJWTAuthority(request, timeout=20)
    return {known.key_id for known in answer.jwt_authorities}


def believed(attestor, token):
    """The subject of a token, as the Workload API sees it; None when it does not believe it."""

    async def ask():
        async with WorkloadApi.connect(attestor.endpoint) as api:
            return (await api.validate_jwt_svid(token, "db")).spiffe_id

    try:
        return str(asyncio.run(ask()))
    except WorkloadApiError:
        return None


def key_ids(local):
    """Of the bundle, as the command shows it."""
    document = json.loads(local.operator("bundle", "show", "--format", "spiffe").stdout)
    return {element.get("kid") for element in document["keys"]}


def test_what_a_downstream_issuer_signs_is_believed_and_it_loses_its_say_with_its_entry(local, attestor):
    below = TestCA("example.org")
    (authority,) = below.bundle.jwt_authorities
    token = below.jwt("spiffe://example.org/below/db-client", ["db"])
    assert believed(attestor, token) is None
    # 1. A workload like any other may publish nothing.
    plain = local.register("/legacy", attestor.node_id, UID)
    eventually(lambda: ids_of(attestor), [LEGACY])

    async def try_it():
        async with calling(local, attestor) as stub:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await publish(stub, authority)
            return caught.value.code()

    assert asyncio.run(try_it()) is grpc.StatusCode.PERMISSION_DENIED
    local.operator("entry", "delete", "--entryID", plain)
    # 2. A downstream issuer may, and nodes believe what it signs.
    entry = local.register("/nested", attestor.node_id, UID, options=["--downstream"])
    eventually(lambda: ids_of(attestor), [NESTED])

    async def do_it():
        async with calling(local, attestor) as stub:
            return await publish(stub, authority)

    assert authority.key_id in asyncio.run(do_it())
    assert authority.key_id in key_ids(local)
    eventually(lambda: believed(attestor, token), "spiffe://example.org/below/db-client")
    # 3. The trail says whose key it is.
    (event,) = [e for e in audit(local) if e["type"] == "bundle.published"]
    assert event["actor"] == NESTED
    assert event["detail"]["key_id"] == authority.key_id
    # 4. It survives a restart of the issuer, which rotates nothing away.
    local.issuer.stop()
    local.start_issuer()
    assert authority.key_id in key_ids(local)
    # 5. An operator takes it out again, and nodes believe nothing that it signed.
    local.operator("bundle", "withdraw", "--authorityID", authority.key_id, "--reason", "it was stolen")
    assert authority.key_id not in key_ids(local)
    eventually(lambda: believed(attestor, token), None)
    # 6. Without its entry it has no say any more, over a connection that is open as well.

    async def lose_it():
        async with calling(local, attestor) as stub:
            await publish(stub, authority)
            await asyncio.to_thread(local.operator, "entry", "delete", "--entryID", entry)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await publish(stub, TestCA("example.org").bundle.jwt_authorities[0])
            return caught.value.code()

    assert asyncio.run(lose_it()) is grpc.StatusCode.PERMISSION_DENIED
