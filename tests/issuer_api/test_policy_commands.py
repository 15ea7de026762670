# SPDX-License-Identifier: Apache-2.0
"""`issuer policy`, as people type it."""

import asyncio
import json

import pytest
from click.testing import CliRunner

from issuer.cli import main
from spiffekit.jws import Jws
from spiffekit.policy.bundle import TYP
from tests.issuer.strategies import an_agent
from tests.issuer_api.test_policy import PAYER, ask, node
from tests.spiffekit.policy.asked import ALL, NONE

__all__ = ["node"]
ID = ("--spiffeID", PAYER)
WHY = ("--reason", "because")


@pytest.fixture
def issuer(world):
    """Run a command; return its exit status, and what it printed."""

    async def run(*arguments):
        line = ["policy", *map(str, arguments), "--socketPath", str(world.socket)]
        ended = await asyncio.to_thread(CliRunner().invoke, main, line)
        return ended.exit_code, ended.output

    return run


@pytest.fixture
def said(issuer):
    async def run(*arguments, code=0):
        ended, output = await issuer(*arguments)
        assert ended == code, output
        return output

    return run


@pytest.fixture
def files(tmp_path):
    for name, text in {
        "all": ALL,
        "none": NONE,
        "shadow": '@mode("shadow") ' + NONE,
        "bad": "x",
        "empty": "\n",
    }.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "binary").write_bytes(b"\xff")
    return tmp_path


async def test_the_life_of_a_policy(said, files):
    assert "Found 0 policies; none was ever enforced, so agents are denied nothing" in await said("list")
    made = await said("put", "--name", "p", "--file", files / "all", *WHY)
    assert "because" in made
    assert "local:uid=" in made
    await said("put", "--name", "p", "--file", files / "none", "--replaces", 1, *WHY)
    listed = await said("list")
    assert "Found 1 policy; agents are denied what none permits" in listed
    assert "because" in listed
    assert NONE in await said("show", "--name", "p")
    assert ALL in await said("show", "--name", "p", "--version", 1)
    assert "3 (ended)" in await said("delete", "--name", "p", *WHY)
    assert "Found 0 policies; agents are denied what none permits" in await said("list")


async def test_machines_read_json(said, files):
    made = json.loads(await said("put", "--name", "p", "--file", files / "all", *WHY, "--output", "json"))
    assert (made["name"], made["version"], made["text"]) == ("p", "1", ALL)
    listed = json.loads(await said("list", "--output", "json"))
    assert (listed["policies"], listed["enforced"]) == ([made], True)
    simulated = json.loads(await said("simulate", "--since", "7d", "--output", "json"))
    assert (simulated["decided"], simulated["flips"]) == ("0", [])
    assert json.loads(await said("bundle", "--output", "json"))["token"].count(".") == 2


async def test_a_change_is_tried_before_it_counts(said, files, world, node, clock):
    await said("put", "--name", "p", "--file", files / "all", *WHY)
    assert await ask(node, clock) == [(0, "OK")]
    told = await said("simulate", "--since", "7d", "--with", "p", files / "none")
    assert "1 of 1 decisions would come out otherwise" in told
    assert "denied" in told
    assert "p#1" in told
    simulated = json.loads(await said("simulate", "--since", "7d", "--without", "p", "--output", "json"))
    assert simulated["flips"][0]["reason"] == "no policy permits it"
    assert "0 of 1" in await said("simulate", "--since", "1h")
    await said("put", "--name", "q", "--file", files / "shadow", *WHY)
    assert "1 of 1" in await said("simulate", "--since", "1h", "--shadow")


async def test_one_decision_is_asked_for(said, files, world):
    await world.database.write(lambda tx: tx.agents.create(an_agent()))
    await said("put", "--name", "p", "--file", files / "all", *WHY)
    assert "allowed" in await said("test", *ID)
    where = (
        "--node",
        "spiffe://example.org/spire/agent/test/n1",
        "--level",
        "tpm",
        "--selector",
        "unix:uid:0",
    )
    told = await said("test", *ID, "--audience", "bank", *where, "--with", "q", files / "shadow")
    assert "allowed" in told
    assert "denied by q#1" in told
    told = await said("test", *ID, "--tool", "pay", "--with", "p", files / "none", code=1)
    assert "policy p#1 forbids it" in told
    told = await said("test", *ID, "--service", "web", "--path", "/v1", "--with", "p", files / "none", code=1)
    assert "policy p#1 forbids it" in told
    denied = json.loads(await said("test", *ID, "--without", "p", "--output", "json", code=1))
    assert denied["reason"] == "no policy permits it"
    for other in ("--audience", "--service"):
        assert "exclude each other" in await said("test", *ID, "--tool", "a", other, "b", code=2)


async def test_what_cannot_be_read_is_not_sent(said, files):
    for name, message in (("empty", "is empty"), ("binary", "is not UTF-8"), ("missing", "No such file")):
        assert message in await said("put", "--name", "p", "--file", files / name, *WHY, code=2)
    assert "policy 'p': " in await said("put", "--name", "p", "--file", files / "bad", *WHY, code=1)


async def test_a_bundle_is_printed(said, files):
    await said("put", "--name", "p", "--file", files / "all", *WHY)
    assert Jws.parse_unverified((await said("bundle")).strip(), typ=TYP).payload["policies"] == [
        ["p", 1, ALL]
    ]


async def test_what_a_simulation_cannot_know_is_said(said, files, world, node, clock, monkeypatch):
    from issuer.api import policy as policy_api
    from tests.issuer_api.test_evidence import evidence, sign
    from tests.issuer_api.test_policy import SELECTED

    await world.entry("/agent/careful", id="careful", evidence_required=True)
    await world.database.write(lambda tx: tx.agents.create(an_agent("/agent/careful")))
    await sign(node, "careful", evidence(clock, "unix:uid:1000"))
    (files / "selected").write_text(SELECTED)
    monkeypatch.setattr(policy_api, "MAX_EVENTS", 1)
    told = await said("simulate", "--since", "7d", "--with", "p", files / "selected")
    assert "1 depend on selectors, which are not recorded" in told
    assert "There are more" in told
