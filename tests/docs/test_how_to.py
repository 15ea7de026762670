# SPDX-License-Identifier: Apache-2.0
"""What the how-tos say about running the daemons is what the daemons do."""

import ast
import json
import re
import socket
import subprocess
import urllib.error
import urllib.request

import pytest

from deploy.local import Local, free_port
from spiffekit.delegation.clauses import TYPES
from spiffekit.delegation.tools import Tools
from spiffekit.errors import NotPermittedError
from tests.docs.pages import ROOT, fences
from tests.system.conftest import UID, eventually, ids_of

HOW_TO = ROOT / "docs" / "how-to"


@pytest.fixture
def systemd(folder, monkeypatch):
    """The socket on which systemd hears of its services."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(folder / "notify"))
        listening.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(folder / "notify"))
        yield listening


@pytest.fixture(scope="module")
def ports():
    return {name: free_port() for name in ("issuer", "attestor", "gateways")}


@pytest.fixture(scope="module")
def local(folder, ports):
    settings = {"health_address": "127.0.0.1", "health_port": ports["issuer"]}
    asked = {
        "address": "127.0.0.1",
        "authzen_port": ports["gateways"],
        "gateways": ["spiffe://example.org/gateway"],
    }
    with Local(folder, issuer={"issuer": settings, "policy_endpoint": asked}) as deployment:
        deployment.start_issuer()
        deployment.start_attestor(
            settings={"attestor": {"health_address": "127.0.0.1", "health_port": ports["attestor"]}}
        )
        yield deployment


def get(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""
    except OSError:  # it does not listen yet
        return 0, ""


@pytest.mark.parametrize("daemon", ["issuer", "attestor"])
def test_a_daemon_is_live_and_ready(local, ports, daemon):
    for path in ("/live", "/ready"):
        eventually(lambda path=path: get(ports[daemon], path)[0], 200)


@pytest.mark.parametrize("daemon", ["issuer", "attestor"])
def test_the_list_of_metrics_is_the_list_of_metrics(local, ports, daemon):
    page = (HOW_TO / "metrics-and-health.md").read_text()
    rows = re.findall(rf"^\| {daemon} \| `(\w+)` \| (\w+) \| (.*?) \|", page, re.MULTILINE)
    eventually(lambda: get(ports[daemon], "/metrics")[0], 200)
    exposed = get(ports[daemon], "/metrics")[1]
    kinds = dict(re.findall(r"^# TYPE (\w+) (\w+)$", exposed, re.MULTILINE))
    assert {name: kind for name, kind, _ in rows} == {
        name: kind for name, kind in kinds.items() if not name.endswith("_created")
    }
    for name, _, labels in rows:
        said = set(re.findall(r"`(\w+)`", labels))
        seen = re.findall(rf"^{name}(?:_count)?{{(.*)}} ", exposed, re.MULTILINE)
        assert all(set(re.findall(r'(\w+)="', sample)) == said for sample in seen)


def test_both_daemons_tell_systemd_when_they_serve_and_when_they_stop(systemd, folder):
    work = folder / "notified"
    work.mkdir()
    with Local(work) as deployment:
        deployment.start_issuer()
        assert systemd.recv(100) == b"READY=1"
        attestor = deployment.start_attestor()
        assert systemd.recv(100) == b"READY=1"
        attestor.daemon.stop()
        assert systemd.recv(100) == b"STOPPING=1"
        deployment.issuer.stop()
        assert systemd.recv(100) == b"STOPPING=1"


def test_a_restored_issuer_serves_the_nodes_and_entries_of_the_backup(local):
    page = (HOW_TO / "backup.md").read_text()
    back_up, restore = fences(page, "console")
    stop, start = "systemctl stop issuer\n", "systemctl start issuer\n"
    assert restore.startswith(stop)
    assert restore.endswith(start)
    attestor = local.attestors["attestor"]

    def shell(script):
        script = script.replace("/var/lib/issuer", f"{local.folder}/issuer")
        script = script.replace("/var/backups/issuer", f"{local.folder}/backup")
        subprocess.run(["bash", "-e", "-c", script], check=True)

    # 1. One entry is there when the backup is made, another one comes later.
    kept = local.register("/kept", attestor.node_id, UID)
    shell(back_up)
    local.register("/lost", attestor.node_id, UID)
    eventually(lambda: ids_of(attestor), ["spiffe://example.org/kept", "spiffe://example.org/lost"])
    # 2. The issuer comes back as it was, and the attestor follows it without being told.
    local.issuer.stop()
    shell(restore.removeprefix(stop).removesuffix(start))
    local.start_issuer()
    eventually(lambda: ids_of(attestor), ["spiffe://example.org/kept"])
    assert attestor.daemon.log.read_text().count("node attested") == 1
    # 3. It goes on from there.
    local.operator("entry", "delete", "--entryID", kept)
    eventually(lambda: ids_of(attestor), [])


def test_entries_that_are_shown_can_be_made_elsewhere(local, tmp_path):
    made = local.register("/moved", "spiffe://example.org/nodes/x", UID, options=["--hint", "h"])
    entries = local.operator_json("entry", "show")
    (tmp_path / "entries.json").write_text(json.dumps(entries))
    local.operator("entry", "delete", "--entryID", made)
    local.operator("entry", "create", "--data", str(tmp_path / "entries.json"))
    again = local.operator_json("entry", "show")
    for entry in entries["entries"] + again["entries"]:
        del entry["created_at"]
    assert again == entries


def logged(path):
    """The events that a module logs, each with its level and the words of the module."""
    text = path.read_text()
    for node in ast.walk(ast.parse(text)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
            continue
        event, method = node.args[0], node.func.attr
        if isinstance(event, ast.Constant) and method in LEVELS:
            yield event.value, LEVELS[method], text


LEVELS = {"info": "info", "warning": "warning", "_warn": "warning", "error": "error", "exception": "error"}


def test_the_events_that_are_named_are_logged_with_their_fields():
    page = (HOW_TO / "logs.md").read_text()
    rows = re.findall(r'^\| \w+ \| (\w+) \| "([^"]+)" \| (.*?) \|', page, re.MULTILINE)
    assert rows
    sources = [p for package in ("attestor", "issuer", "spiffekit") for p in (ROOT / package).rglob("*.py")]
    known = {(event, level): text for path in sources for event, level, text in logged(path)}
    for level, event, fields in rows:
        text = known[event, level]
        for field in re.findall(r"`(\w+)`", fields):
            assert f'"{field}"' in text or f"{field}=" in text, (event, field)


AGENTS = (HOW_TO / "agents.md").read_text()


def test_the_table_of_constraints_has_every_type_and_its_members():
    rows = re.findall(r"^\| `(\w+)` \|([^|]*)\|", AGENTS, re.MULTILINE)
    told = {kind: set(re.findall(r"`(\w+)`", members)) for kind, members in rows if kind in TYPES}
    assert told == {kind: constraint.members | constraint.optional for kind, constraint in TYPES.items()}


def test_the_tools_of_the_sample_are_what_the_page_says():
    tools = Tools.from_json(next(text for text in fences(AGENTS, "json") if "mcp://" in text).encode())
    payment = {"amount": 500, "vendor": "acme", "note": "for May"}
    tools.check_permits("mcp://search/query", {"whatever": ["it", "is"]})
    tools.check_permits("mcp://invoices/pay", payment, spent={"amount": 1500})
    tools.check_permits("mcp://files/read", {"path": "/srv/invoices/may.pdf"})
    tools.check_permits("mcp://http/get", {"url": "https://api.example.org/v1/rates?of=eur"})
    for tool, arguments, spent in (
        ("mcp://invoices/pay", payment | {"amount": 501}, 0),
        ("mcp://invoices/pay", payment, 1501),
        ("mcp://invoices/pay", payment | {"cc": ""}, 0),
        ("mcp://invoices/pay", {"amount": 1, "vendor": "acme"}, 0),
        ("mcp://files/read", {"path": "/srv/invoices/../keys"}, 0),
        ("mcp://http/get", {"url": "https://api.example.org/v1/%2e%2e/admin"}, 0),
    ):
        with pytest.raises(NotPermittedError):
            tools.check_permits(tool, arguments, spent={"amount": spent})
