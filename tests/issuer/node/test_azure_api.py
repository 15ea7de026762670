# SPDX-License-Identifier: Apache-2.0
"""What Azure says of a machine is stated as it stands, about that machine only, or nothing is."""

import asyncio
import json
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from issuer.errors import NodeRejectedError, PlatformUnavailableError
from issuer.node import azure_access, azure_api
from issuer.node.azure_access import Api, AzureAccess, peers
from issuer.node.azure_api import AzureApi
from issuer.node.azure_imds import OPENING, Config, Tenant, create, create_with
from spiffekit.daemon.config import ConfigError
from spiffekit.selector import Selector, typo
from tests.fakes.azure import (
    ALONE,
    GROUP,
    LOGIN,
    MANAGEMENT,
    MEMBER,
    METADATA,
    SECRET,
    TOKEN,
    ResourceManager,
)
from tests.fakes.clock import FakeClock
from tests.fakes.web import WebServer, ok
from tests.issuer.node.azure import DOMAIN, SUBSCRIPTION, TENANT, Azure
from tests.issuer.node.x509pop_node import Context
from tests.issuer.strategies import a_node

NOW = datetime.now(UTC).replace(microsecond=0)
AZURE = Azure(NOW)
TAGS = Api(allowed_vm_tags=("team", "env", "absent"))
OF_ALL = {"resource-group:front-end", "vm-location:eastus", "network-security-group:Front-End:sg-1"}
NETWORK = {"virtual-network:vnet", "virtual-network-subnet:vnet:default"}
OF_ALONE = OF_ALL | NETWORK | {"vm-name:blog", "virtual-network-subnet:vnet:back"}
OF_MEMBER = OF_ALL | NETWORK | {"vm-name:set-1_0", "vmss-name:set-1"}


@pytest.fixture
def clock():
    return FakeClock(NOW)


@pytest.fixture
async def manager():
    async with ResourceManager() as manager:
        yield manager


@pytest.fixture
def asking(manager, clock):
    return lambda api=TAGS: AzureApi(AzureAccess(TENANT, api, manager.peers(api), clock), api)


@pytest.fixture
def facts(asking):
    api = asking()
    return lambda machine=ALONE, scale_set=None: api.facts(SUBSCRIPTION, machine, scale_set)


@pytest.fixture
async def verifier(manager, clock, tmp_path):
    root = tmp_path / "root.pem"
    root.write_bytes(AZURE.root.certificate.public_bytes(Encoding.PEM))
    async with WebServer(lambda head: ok(AZURE.certificate()), name="www.microsoft.com") as microsoft:

        def verifier(api=TAGS):
            config = Config({DOMAIN: Tenant(TENANT, (SUBSCRIPTION,), api)}, trust_bundle_path=root)
            return create_with(config, microsoft.peer, clock, manager.peers)

        yield verifier


async def prove(verifier, machine=ALONE, scale_set=None):
    async def respond(nonce):
        document = AZURE.sign(AZURE.document(nonce.decode(), vmId=machine))
        metadata = {"agentDomain": DOMAIN, "vmssName": scale_set}
        return json.dumps(
            {"document": {"encoding": "pkcs7", "signature": document}, "metadata": metadata}
        ).encode()

    return await verifier.verify(OPENING, respond, Context())


async def test_a_node_has_selectors_of_what_azure_says(verifier):
    proof = await prove(verifier())
    values = OF_ALONE | {f"subscription-id:{SUBSCRIPTION}", "vm-tag:team:web", "vm-tag:env:pro:d"}
    assert proof.selectors == {Selector("azure_imds", value) for value in values}
    assert not any(map(typo, proof.selectors))


async def test_an_instance_of_a_scale_set_is_found_where_the_node_says(verifier):
    proof = await prove(verifier(), MEMBER, "set-1")
    assert proof.selectors == {
        Selector("azure_imds", value) for value in OF_MEMBER | {f"subscription-id:{SUBSCRIPTION}"}
    }
    assert not any(map(typo, proof.selectors))


async def test_without_a_table_azure_is_not_asked(verifier, manager):
    assert {s.value for s in (await prove(verifier(None))).selectors} == {f"subscription-id:{SUBSCRIPTION}"}
    assert manager.asked == []


async def test_a_node_that_renews_is_asked_about_again(verifier, manager):
    today = verifier()
    for machine, scale_set, found in ((ALONE, None, manager.alone), (MEMBER, "set-1", manager.member)):
        proof = await prove(today, machine, scale_set)
        node = a_node(f"azure_imds/{TENANT}/{SUBSCRIPTION}/{machine}", selectors=proof.selectors)
        assert await today.refresh(node) == proof.selectors
        found["tags"] = {"team": "db"}
        changed = await today.refresh(node)
        assert Selector("azure_imds", "vm-tag:team:db") in changed
        # What was said once is not kept when nobody asks any longer.
        assert {s.value for s in await verifier(None).refresh(node)} == {f"subscription-id:{SUBSCRIPTION}"}
        found["properties"] = {"vmId": TENANT}
        with pytest.raises((NodeRejectedError, PlatformUnavailableError)):
            await today.refresh(node)


async def test_a_machine_of_a_flexible_scale_set_needs_no_hint(facts, manager):
    manager.alone["properties"]["virtualMachineScaleSet"] = {"id": manager.scale_set["id"]}
    assert "vmss-name:set-1" in await facts()


async def test_the_word_of_a_node_names_no_scale_set(facts, manager):
    assert not any(value.startswith("vmss-name") for value in await facts(ALONE, "set-1"))
    for hint in (None, "", "set-2", "set-1' or '1' =~ '1", "set-1\n", "x" * 91):
        with pytest.raises(NodeRejectedError, match="no such machine"):
            await facts(MEMBER, hint)
    manager.page = lambda target: {"value": [manager.other]}
    with pytest.raises(NodeRejectedError, match="in that scale set"):
        await facts(MEMBER, "set-1")


def another_subscription(manager):
    manager.alone["id"] = manager.alone["id"].replace(SUBSCRIPTION, TENANT)


def twins(manager):
    manager.graph = lambda: {"data": [manager.alone] * 2, "resultTruncated": "false"}


def quoted(manager):
    manager.alone["id"] += "' or '' =~ '"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda m: m.alone["properties"].update(vmId=MEMBER), "another machine"),
        (twins, "several machines"),
        (another_subscription, "another subscription"),
        (quoted, "the ID of something else"),
        (lambda m: m.alone.update(name="a:b"), "a name that is none"),
        (lambda m: m.alone.update(tags={"team": 1}), "another form"),
        (lambda m: m.interfaces.clear(), "not known yet"),
        (
            lambda m: m.interfaces[0]["properties"].update(networkSecurityGroup={"id": GROUP}),
            "something else",
        ),
        (lambda m: m.member["properties"].pop("networkProfileConfiguration"), "are not known yet"),
        (lambda m: m.interfaces[0]["properties"].pop("ipConfigurations"), "another form"),
        (lambda m: setattr(m, "truncated", "true"), "another form"),
        (lambda m: setattr(m, "next_link", "https://evil.example/x"), "another host"),
        (lambda m: setattr(m, "next_link", f"https://{MANAGEMENT}.evil.example/x"), "another host"),
        (lambda m: setattr(m, "next_link", f"https://{MANAGEMENT}@evil.example/x"), "another host"),
        (lambda m: setattr(m, "page", lambda _: {"value": [], "nextLink": m.next_link}), "pages"),
        (lambda m: m.token.update(token_type="pop"), "no bearer token"),
        (lambda m: m.token.update(access_token="a\r\nx: y"), "no bearer token"),
        (lambda m: m.token.update(access_token="a" * 20_000), "no bearer token"),
        (lambda m: m.token.pop("expires_in"), "another form"),
    ],
)
async def test_an_answer_that_does_not_fit_states_nothing(facts, manager, change, why):
    change(manager)
    with pytest.raises(PlatformUnavailableError, match=why):
        await (facts(MEMBER, "set-1") if why in {"another host", "pages", "are not known yet"} else facts())


@pytest.mark.parametrize("host", [MANAGEMENT, METADATA])
@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (ok("{}", status="403 Forbidden"), "status 403"),
        (ok("{}", "Location: https://evil.example/", status="307 Temporary Redirect"), "status 307"),
        (ok("[" * 1900), "another form"),
        (b"", "asked about the machine"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 3000, "longer than"),
    ],
    ids=["forbidden", "redirect", "deep", "closed", "large"],
)
async def test_a_host_that_does_not_answer_makes_no_node(facts, manager, monkeypatch, host, answer, why):
    monkeypatch.setattr(azure_access, "MAX_ANSWER", 2000)
    manager.broken = lambda asked, _: answer if asked == host else False
    with pytest.raises(PlatformUnavailableError, match=why):
        await facts()


@pytest.mark.parametrize("host", [MANAGEMENT, METADATA])
async def test_a_host_that_hangs_is_given_up(facts, manager, monkeypatch, host):
    monkeypatch.setattr(azure_api, "TIMEOUT", 0.1)
    manager.broken = lambda asked, _: None if asked == host else False
    async with asyncio.timeout(30):
        with pytest.raises(PlatformUnavailableError, match="did not answer within"):
            await facts()


@pytest.mark.parametrize("value", ["a\nb", "\x00", "x" * 8192])
async def test_a_tag_that_is_no_selector_is_not_left_out(verifier, manager, value):
    manager.alone["tags"]["team"] = value
    with pytest.raises(NodeRejectedError, match="no selector"):
        await prove(verifier())
    manager.alone["tags"] = {"private": value}  # nobody asked for it
    assert await prove(verifier())


async def test_more_facts_than_a_machine_has_are_refused(facts, manager):
    manager.interfaces = [interface_of(number) for number in range(azure_api.MAX_FACTS)]
    with pytest.raises(PlatformUnavailableError, match="more than"):
        await facts()


def interface_of(number):
    group = f"{GROUP}/providers/Microsoft.Network/networkSecurityGroups/sg-{number}"
    return {"properties": {"ipConfigurations": [], "networkSecurityGroup": {"id": group}}}


async def test_an_identity_of_the_machine_is_asked_for_a_token_once(facts, manager, clock):
    await asyncio.gather(facts(), facts(), facts())
    tokens = [asked for asked in manager.asked if METADATA in asked]
    assert tokens == [
        f"GET {METADATA}/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://{MANAGEMENT}/"
    ]
    await clock.advance(timedelta(seconds=3599 - 300))
    await facts()
    assert len([asked for asked in manager.asked if METADATA in asked]) == 2


async def test_an_identity_may_be_named(asking, manager):
    await asking(Api(client_id="app-1")).facts(SUBSCRIPTION, ALONE, None)
    assert manager.asked[0].endswith("&client_id=app-1")


async def test_a_token_that_is_refused_is_not_kept(facts, manager):
    await facts()
    manager.broken = lambda asked, _: ok("", status="401 Unauthorized") if asked == MANAGEMENT else False
    with pytest.raises(PlatformUnavailableError, match="status 401"):
        await facts()
    manager.broken = lambda asked, _: False
    assert await facts() >= OF_ALONE
    assert len([asked for asked in manager.asked if METADATA in asked]) == 2


@pytest.mark.parametrize("option", ["secret_file", "token_file"])
async def test_an_application_shows_what_it_has(asking, manager, tmp_path, option):
    path = tmp_path / "file"
    path.write_text(f"{SECRET}\nmore")
    api = asking(Api(client_id="app-1", **{option: path}))
    assert await api.facts(SUBSCRIPTION, ALONE, None) >= OF_ALONE
    assert manager.asked[0] == f"POST {LOGIN}/{TENANT}/oauth2/v2.0/token"
    body = manager.server.bodies[0].decode()
    assert (
        "grant_type=client_credentials&client_id=app-1&scope=https%3A%2F%2Fmanagement.azure.com%2F.default"
        in body
    )
    assert ("jwt-bearer" in body) is (option == "token_file")


async def test_neither_secret_nor_token_is_said(asking, manager, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    path = tmp_path / "file"
    api = Api(client_id="app-1", secret_file=path)
    wrong = {
        "a wrong secret": f"{SECRET}x".encode(),
        "no ASCII": f"{SECRET}ä".encode(),
        "an empty line": f"\n{SECRET}".encode(),
        "too much": SECRET.encode() * 100_000,
        "a good one": SECRET.encode(),
    }
    manager.broken = lambda host, _: (
        ok(f"{SECRET} {TOKEN}", status="403 Forbidden") if host == MANAGEMENT else False
    )
    for content in wrong.values():
        path.write_bytes(content)
        with pytest.raises(PlatformUnavailableError) as caught:
            await asking(api).facts(SUBSCRIPTION, ALONE, None)
        said, error = [repr(asking(api)), repr(api), caplog.text], caught.value
        while error is not None:
            said.append(repr(error))
            error = error.__cause__
        assert not [text for text in said if "s3cret" in text or TOKEN in text]


def test_azure_is_asked_by_https_at_its_own_names():
    found = peers(Api(management_host="management.usgovcloudapi.net"))
    assert {host: (str(peer), peer.tls is None) for host, peer in found.items()} == {
        METADATA: (f"{METADATA}:80", True),
        "management.usgovcloudapi.net": ("management.usgovcloudapi.net:443", False),
        LOGIN: (f"{LOGIN}:443", False),
    }
    assert found[LOGIN].tls.check_hostname


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"secret_file": Path(__file__), "token_file": Path(__file__), "client_id": "x"}, "at most one"),
        ({"secret_file": Path(__file__)}, "client_id: is needed"),
        ({"secret_file": Path("/none"), "client_id": "x"}, "/none: No such file"),
        ({"management_host": "https://management.azure.com"}, "management_host: .* is not a host"),
        ({"login_host": ""}, "login_host: '' is not a host"),
        ({"allowed_vm_tags": ("a:b",)}, "allowed_vm_tags: 'a:b' is empty or has a colon"),
        ({"allowed_vm_tags": ("",)}, "allowed_vm_tags"),
    ],
    ids=str,
)
def test_a_table_that_cannot_be_meant_is_refused(options, why):
    with pytest.raises(ConfigError, match=rf"tenants.{DOMAIN}.api.*{why}"):
        create(Config({DOMAIN: Tenant(TENANT, (SUBSCRIPTION,), Api(**options))}))
