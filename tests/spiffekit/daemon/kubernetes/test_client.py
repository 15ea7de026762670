# SPDX-License-Identifier: Apache-2.0
"""The requests that are made of an API server, and what becomes of its answers."""

import pytest

from spiffekit.daemon.config import Span
from spiffekit.daemon.kubernetes import client
from spiffekit.daemon.kubernetes.access import Access
from spiffekit.daemon.kubernetes.client import KubernetesClient, KubernetesError
from tests.fakes.kubernetes import ADMIN, ApiServer, Authority, pod


@pytest.fixture(scope="module")
def authority():
    return Authority()


@pytest.fixture
def server(authority):
    with ApiServer(authority) as found:
        yield found


def asking(server, authority, **more):
    access = {"ca": authority.pem, "token": ADMIN.encode()} | more
    return KubernetesClient(Access("127.0.0.1", server.port, **access))


async def test_an_object_is_read(server, authority):
    server.store.put("pods", pod("booking"))
    server.store.put("nodes", {"metadata": {"name": "node-1"}})
    asked = asking(server, authority)
    assert (await asked.pod("default", "booking")).spec.node_name == "node-1"
    assert (await asked.node("node-1")).metadata.name == "node-1"
    with pytest.raises(KubernetesError, match="not found") as caught:
        await asked.pod("default", "none")
    assert caught.value.code == 404


async def test_a_token_is_judged_for_its_audiences(server, authority):
    token = server.store.token("default", "booking", ["issuer"], 600, None)
    verdict = await asking(server, authority).review(token, ("issuer", "other"))
    assert (verdict.authenticated, verdict.audiences) == (True, ("issuer",))
    assert verdict.user.username == "system:serviceaccount:default:booking"
    assert not (await asking(server, authority).review(token, ("other",))).authenticated


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"7", b"[]", b"[" * 100_000, b'{"metadata": {"name": "\xff"}}']
)
async def test_an_answer_of_another_form_is_refused(server, authority, content):
    server.fault = lambda request: say(request, 200, content)
    with pytest.raises(KubernetesError, match=r"127\.0\.0\.1 answered with another thing"):
        await asking(server, authority).node("n")


async def test_a_refusal_in_other_words_keeps_its_status(server, authority):
    server.fault = lambda request: say(request, 403, b"Forbidden (user=x)")
    with pytest.raises(KubernetesError, match=r"^status 403 ''$") as caught:
        await asking(server, authority).node("n")
    assert caught.value.code == 403


def say(request, status, content):
    request.send_response(status)
    request.send_header("content-length", str(len(content)))
    request.end_headers()
    request.wfile.write(content)


async def test_a_server_that_cannot_be_asked_is_told_of(server, authority, tmp_path):
    other = Authority()
    for unable, reason in (
        (asking(server, other), "certificate verify failed"),
        (asking(server, authority, token=tmp_path / "none"), "No such file"),
    ):
        with pytest.raises(KubernetesError, match=reason):
            await unable.node("n")
        with pytest.raises(KubernetesError, match=reason):
            await anext(unable.lines("/api/v1/pods", {"watch": "true"}))
    assert server.calls == []


async def test_a_server_that_refuses_is_told_of_with_its_words(server, authority):
    with pytest.raises(KubernetesError, match="status 401 'Unauthorized'") as caught:
        await asking(server, authority, token=b"other").pods()
    assert caught.value.code == 401


async def test_a_server_that_hangs_is_given_up(server, authority, monkeypatch):
    monkeypatch.setattr(client, "WITHIN", Span(seconds=0.2))
    server.fault = lambda request: server.stopping.wait(10)
    with pytest.raises(KubernetesError, match="did not answer within"):
        await asking(server, authority).node("n")


async def test_a_name_cannot_lead_elsewhere(server, authority):
    with pytest.raises(KubernetesError):
        await asking(server, authority).pod("default", "../../nodes/node-1?x=#y")
    assert server.calls == [
        ("GET", "/api/v1/namespaces/default/pods/..%2F..%2Fnodes%2Fnode-1%3Fx%3D%23y"),
    ]
