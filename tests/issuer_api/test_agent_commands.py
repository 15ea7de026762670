# SPDX-License-Identifier: Apache-2.0
"""`issuer agent` and `issuer class`, as people type them."""

import asyncio
import json

import pytest
from click.testing import CliRunner

from issuer.cli import main
from tests.issuer.governance.people import IDP

PAYER = "spiffe://example.org/agent/payer"
ID = ("--spiffeID", PAYER)
OWNER = ("--ownerIssuer", IDP, "--owner", "alice")
PURPOSE = ("--purpose", "pays the invoices that people approved")


@pytest.fixture
def issuer(world):
    """Run a command; return its exit status, and what it printed."""

    async def run(*arguments):
        line = [*arguments, "--socketPath", str(world.socket)]
        ended = await asyncio.to_thread(CliRunner().invoke, main, line)
        return ended.exit_code, ended.output

    return run


@pytest.fixture
def said(issuer):
    async def run(*arguments):
        code, output = await issuer(*arguments)
        assert code == 0, output
        return output

    return run


async def test_the_life_of_an_agent(said):
    made = await said(
        "agent",
        "register",
        "--spiffeID",
        PAYER,
        *OWNER,
        *PURPOSE,
        "--team",
        "finance",
        "--reviewBy",
        "2100-01-31",
    )
    assert "registered" in made
    assert f"{IDP}|alice" in made
    assert "2100-01-31" in made
    for verb, state in [("activate", "active"), ("suspend", "suspended"), ("resume", "active")]:
        told = await said("agent", verb, *ID, "--reason", f"why {verb}")
        assert f"{state} (why {verb})" in told
    assert "2099-12-31" in await said(
        "agent", "review", *ID, "--reason", "needed", "--reviewBy", "2099-12-31T00:00:00Z"
    )
    moved = await said(
        "agent", "transfer", *ID, "--reason", "moved", "--ownerIssuer", IDP, "--owner", "team",
        "--ownerGroup",
    )  # fmt: skip
    assert f"{IDP}|group:team" in moved
    gone = await said("agent", "retire", *ID, "--reason", "done", "--successor", f"{PAYER}2")
    assert "retired (done)" in gone
    assert f"{PAYER}2" in gone
    assert "with 0 outstanding credentials" in gone
    assert gone.startswith((await said("agent", "show", *ID)).rstrip())


async def test_what_an_agent_may_have_is_told(said, tmp_path):
    tools = tmp_path / "tools.json"
    tools.write_text('{"mcp://mail/send": {}}')
    told = await said(
        "agent", "register", *ID, *OWNER, *PURPOSE, "--tools", str(tools), "--audience", "db",
        "--audience", "web", "--maxDepth", "1", "--x509TTL", "10m",
    )  # fmt: skip
    for part in ('{"mcp://mail/send":{}}', "db, web", "1 deep, for 600 s", "X.509 600 s, JWT 300 s"):
        assert part in told
    told = await said(
        "agent",
        "update",
        "--spiffeID",
        PAYER,
        *PURPOSE,
        "--noAudience",
        "--reason",
        "less",
        "--output",
        "json",
    )
    assert json.loads(told)["effective"]["limits_audiences"] is True
    assert "Audiences" in await said("agent", "show", *ID)


async def test_agents_are_listed(said):
    assert await said("agent", "list") == "Found 0 agents\n"
    for name, team in (("a", "red"), ("b", "blue")):
        await said("agent", "register", "--spiffeID", f"{PAYER}/{name}", *OWNER, *PURPOSE, "--team", team)
    told = await said("agent", "list")
    assert "Found 2 agents" in told
    assert "registered" in told
    assert "Found 1 agent\n" in await said("agent", "list", "--team", "red", "--state", "registered")
    assert await said("agent", "list", "--reviewDue") == "Found 0 agents\n"
    found = json.loads(await said("agent", "list", "--output", "json"))["agents"]
    assert [agent["spec"]["spiffe_id"] for agent in found] == [f"{PAYER}/a", f"{PAYER}/b"]


async def test_classes(said, issuer):
    assert await said("class", "list") == "Found 0 classes\n"
    made = await said(
        "class",
        "put",
        "--name",
        "bots",
        "--twoPeople",
        "--reviewEvery",
        "90d",
        "--x509TTL",
        "5m",
        "--noAudience",
    )
    assert "every 7776000 s" in made
    assert "X.509 300 s" in made
    assert await said("class", "show", "--name", "bots") == made
    told = await said("class", "list")
    assert "Found 1 class\n" in told
    assert "7776000 s" in told
    assert json.loads(await said("class", "list", "--output", "json"))["classes"][0]["name"] == "bots"
    assert json.loads(await said("class", "show", "--name", "bots", "--output", "json"))["two_people"] is True
    await said("class", "delete", "--name", "bots")
    assert await issuer("class", "show", "--name", "bots") == (1, "error: class 'bots' does not exist\n")


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (("--audience", "a", "--noAudience"), "--audience and --noAudience exclude each other"),
        (("--reviewBy", "soon"), "'--reviewBy': 'soon' is neither a date nor an instant"),
    ],
)
async def test_a_line_that_makes_no_sense_is_refused(issuer, more, why):
    code, output = await issuer("agent", "register", *ID, *OWNER, *PURPOSE, *more)
    assert code == 2
    assert why in output


async def test_what_was_taken_back(said, issuer, world, tmp_path):
    await said("agent", "register", *ID, *OWNER, *PURPOSE)
    await said("agent", "activate", *ID, "--reason", "approved")
    assert await said("revocation", "list") == "Found 0 revocations\n"
    minted = tmp_path / "minted"
    minted.mkdir()
    await said("x509", "mint", *ID, "--write", str(minted))
    (serial,) = [r.credential.serial for r in await world.trail() if r.credential is not None]
    told = await said("revocation", "add", "--serial", serial, "--reason", "lost")
    assert told == f"Revoked certificate {serial} of {PAYER}\n"
    made = await said(
        "revocation", "add", *ID, "--before", "2026-01-01", "--reason", "stolen", "--output", "json"
    )
    assert json.loads(made)["kind"] == "before"
    assert "Found 2 revocations" in await said("revocation", "list")
    listed = json.loads(await said("revocation", "list", "--output", "json"))["revoked"]
    assert {(one["kind"], one["reason"]) for one in listed} == {
        ("certificate", "key_compromise"),
        ("before", "key_compromise"),
    }
    file = tmp_path / "certificate.jwt"
    told = await said("agent", "retire", *ID, "--reason", "done", "--certificate", str(file))
    assert "retired (done)" in told
    assert "with 1 outstanding credentials" in told
    assert "Fully dead at" in told
    assert file.read_text().count(".") == 2
    again = json.loads(await said("agent", "certify", *ID, "--output", "json"))
    assert (again["spiffe_id"], [one["id"] for one in again["outstanding"]]) == (PAYER, [serial])
    other = await issuer("revocation", "add", "--reason", "x")
    assert other[0] == 2
    assert "exactly one of --serial, --jti and --spiffeID is required" in other[1]
    code, output = await issuer("revocation", "add", *ID, "--reason", "x", "--before", "soon")
    assert (code, "'--before': 'soon' is neither a date nor an instant" in output) == (2, True)
