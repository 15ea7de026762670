# SPDX-License-Identifier: Apache-2.0
"""The operator's story of nodes: list, show, count, ban, evict and purge, by every filter."""

import json

import pytest
from click.testing import CliRunner

from issuer.cli import main
from tests.system.conftest import eventually, nodes

WIDTH = 80  # columns


@pytest.fixture(scope="module")
def settings():
    return {"issuer": {"node_svid_ttl": "6s", "log_format": "json"}}


@pytest.fixture(scope="module")
def fleet(local, machines):
    """Nodes by name: two by join token, one by certificate, and one by token that is banned."""
    started = {name: local.start_attestor(name) for name in ("one", "two", "banned")}
    proof = {"node_attestor.x509pop": machines.node(local.folder, "web-7")}
    known = set(nodes(local))
    machine = local.start_attestor("machine", proof)
    (machine.node_id,) = nodes(local).keys() - known
    local.operator("node", "ban", "--spiffeID", started["banned"].node_id)
    assert started["banned"].daemon.wait() == 1
    return {**started, "machine": machine}


@pytest.fixture(scope="module")
def names(fleet):
    return {attestor.node_id: name for name, attestor in fleet.items()}


@pytest.fixture
def listed(local, names):
    def command(*arguments):
        """What a command prints, without a process of its own."""
        ended = CliRunner().invoke(main, [*arguments, "--socketPath", str(local.admin_socket)])
        assert ended.exit_code == 0, ended.output
        return ended.stdout

    def ask(*filters):
        """The names of the nodes that list and count agree on."""
        found, counted = (
            json.loads(command("node", verb, *filters, "--output", "json")) for verb in ("list", "count")
        )
        assert counted["count"] == len(found["agents"])
        return sorted(names[f"spiffe://{n['id']['trust_domain']}{n['id']['path']}"] for n in found["agents"])

    return ask


EVERYBODY = ["banned", "machine", "one", "two"]
FILTERS = {
    "all": ((), EVERYBODY),
    "by-token": (("--attestationType", "join_token"), ["banned", "one", "two"]),
    "by-certificate": (("--attestationType", "x509pop"), ["machine"]),
    "by-nothing-known": (("--attestationType", "sundial"), []),
    "banned": (("--banned", "true"), ["banned"]),
    "not-banned": (("--banned", "false"), ["machine", "one", "two"]),
    "again": (("--canReattest", "true"), ["machine"]),
    "never-again": (("--canReattest", "false"), ["banned", "one", "two"]),
    "selector": (("--selector", "x509pop:subject:cn:web-7"), ["machine"]),
    "another-selector": (("--selector", "x509pop:subject:cn:web-8"), []),
    "exactly-this-selector": (
        ("--selector", "x509pop:subject:cn:web-7", "--matchSelectorsOn", "exact"),
        [],
    ),
    "expires-some-day": (("--expiresBefore", "2200-01-01T00:00:00Z"), EVERYBODY),
    "expired-long-ago": (("--expiresBefore", "2000-01-01T00:00:00Z"), []),
    "several": (("--banned", "false", "--attestationType", "join_token"), ["one", "two"]),
}


@pytest.mark.parametrize(("filters", "expected"), FILTERS.values(), ids=FILTERS)
def test_nodes_are_listed_and_counted_by_what_they_are(listed, filters, expected):
    assert listed(*filters) == expected


def test_a_filter_that_is_none_is_refused(local, fleet):
    refused = local.operator("node", "list", "--expiresBefore", "tomorrow", check=False)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "by_expires_before: 'tomorrow' is not a point in time" in refused.stderr
    assert local.operator("node", "count", "--banned", "perhaps", check=False).returncode == 2


def test_a_list_is_a_table_that_fits_the_terminal(local, fleet, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    printed = local.operator("node", "list").stdout
    assert "Found 4 attested nodes" in printed
    assert max(map(len, printed.splitlines())) <= WIDTH
    unfolded = "".join(printed.split())
    for word in ("x509pop", "join_token", "banned"):
        assert word in unfolded


def test_a_node_is_shown_with_what_it_proved(local, fleet):
    machine = fleet["machine"].node_id
    printed = local.operator("node", "show", "--spiffeID", machine).stdout
    for line in (
        f"SPIFFE ID        : {machine}",
        "Attestation type : x509pop",
        "Can re-attest    : True",
        "Banned           : False",
        "Selectors        : x509pop:subject:cn:web-7",
    ):
        assert line in printed
    (selector,) = [
        s["value"]
        for s in local.operator_json("node", "show", "--spiffeID", machine)["selectors"]
        if s["value"].startswith("subject")
    ]
    assert selector == "subject:cn:web-7"


@pytest.mark.parametrize("verb", ["show", "ban", "evict"])
def test_a_node_that_is_not_there_is_named(local, fleet, verb):
    unknown = "spiffe://example.org/spire/agent/join_token/nobody"
    refused = local.operator("node", verb, "--spiffeID", unknown, check=False)
    said = f"error: node {unknown} does not exist (NOT_FOUND)\n"
    assert (refused.returncode, refused.stdout, refused.stderr) == (1, "", said)


def test_nodes_that_are_long_gone_are_purged_and_no_others(local, machines):
    settings = {"node_attestor.x509pop": machines.node(local.folder, "lost")}
    known = set(nodes(local))
    lost = local.start_attestor("lost", settings)
    (node_id,) = nodes(local).keys() - known
    lost.daemon.kill()

    def purge(*options):
        return json.loads(
            local.operator("node", "purge", "--expiredFor", "1s", *options, "--output", "json").stdout
        )

    # 1. Said what would go, once it is gone for long enough; banned nodes and living ones never would.
    eventually(lambda: purge("--dryRun"), {"dry_run": True, "nodes": [node_id]}, within=15)
    assert node_id in nodes(local)
    assert local.operator_json("node", "purge", "--dryRun")["nodes"] == [], "a month is the default"
    # 2. Done.
    assert purge() == {"dry_run": False, "nodes": [node_id]}
    assert nodes(local).keys() == known
    # 3. It may prove itself again.
    lost.start()
    assert node_id in nodes(local)
    lost.daemon.stop()
    local.operator("node", "evict", "--spiffeID", node_id)


def test_a_log_for_programs_is_one_object_a_line(local, fleet):
    lines = [json.loads(line) for line in local.issuer.log.read_text().splitlines()]
    assert all({"time", "level", "logger", "event"} <= line.keys() for line in lines)
    (ready,) = [line for line in lines if line["event"] == "issuer is ready"]
    assert ready["trust_domain"] == "example.org"
    denied = [line for line in lines if line["event"] == "call refused"]
    assert {"method", "code", "reason", "actor", "call"} <= denied[0].keys()
