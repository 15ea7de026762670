# SPDX-License-Identifier: Apache-2.0
"""The life of an agent: registered, approved by somebody else, run, suspended while it runs, and ended."""

import contextlib
import os
import sqlite3
import subprocess
import sys
import time

import pytest

from deploy.local import executable, script_environment
from spiffekit.bundle import Bundle
from spiffekit.id import TrustDomain
from spiffekit.jws import Jws
from tests.issuer.governance.people import IDP, user, write
from tests.system.conftest import UID, eventually

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="two people are two users, which takes root")

PAYER = "spiffe://example.org/agent/payer"
ID = ("--spiffeID", PAYER)
OWNER = ("--ownerIssuer", IDP, "--owner", "alice")
PURPOSE = ("--purpose", "pays the invoices that people approved")
CARL = 4711  # another user of the admin socket: he registers what Alice, who is root, owns
TOLD_WITHIN = 3.0  # seconds from the operator's command until the agent's stream has ended
ANSWERING = {
    ("owner", f"{IDP}|alice", ""),
    ("registered the agent", f"{IDP}|carl", f"local:uid={CARL}"),
    ("approved the agent", f"{IDP}|alice", "local:uid=0"),
}
POLICY = """
@id("all") permit(principal, action, resource);
@id("tpm") forbid(principal, action, resource) when { context has attest && context.attest.level < 3 };
"""
PROGRAM = """
import asyncio, time
from spiffekit.workload import WorkloadApi

async def main():
    async with WorkloadApi.connect() as api:
        async for update in api.watch_x509():  # it has no SVIDs when the stream ended with PERMISSION_DENIED
            print(time.monotonic(), *(svid.serial_number for svid in update.svids), flush=True)

asyncio.run(main())
"""
# The command as a user who may not be able to read our files: what it needs is loaded before.
AS_USER = """
import os, sys
import issuer.client, spiffekit.wire.convert
from issuer.cli import main

os.setgroups([])
os.setuid(int(sys.argv[1]))
main(sys.argv[2:])
"""


@pytest.fixture(scope="module")
def settings(folder):
    people = folder / "people.json"
    write(people, user("alice", "local:uid=0"), user("carl", f"local:uid={CARL}"))
    return {
        # In a folder that the group of operators may enter.
        "issuer": {"admin_socket": str(folder / "admin" / "api.sock")},
        "agents": {"people": str(people), "people_issuer": IDP},
    }


@pytest.fixture
def carl(local):
    """Run `issuer` commands as Carl; return the ended process."""

    def run(*arguments):
        command = [
            sys.executable,
            "-c",
            AS_USER,
            str(CARL),
            *arguments,
            "--socketPath",
            str(local.admin_socket),
        ]
        # He may not write into our folder, where coverage would keep what it measures of him.
        unmeasured = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
        return subprocess.run(command, capture_output=True, text=True, timeout=60, env=unmeasured)

    return run


class Payer:
    """The agent: a process from an executable of its own that follows its identity."""

    def __init__(self, path, attestor):
        self.path = path
        self._attestor = attestor

    def __enter__(self):
        self._process = subprocess.Popen(
            [str(self.path), "-c", PROGRAM],
            env=script_environment(SPIFFE_ENDPOINT_SOCKET=self._attestor.endpoint),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.pid = self._process.pid
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()

    def until(self, *, granted):
        """Return when the next such update came, and its serial numbers."""
        while True:
            at, *serials = self._process.stdout.readline().split()
            if bool(serials) is granted:
                return float(at), serials


@pytest.fixture
def payer(local, attestor):
    return Payer(executable(local.folder / "bin", "payer"), attestor)


@pytest.fixture
def put_policy(local, tmp_path):
    """Store a policy."""

    def put(text):
        (tmp_path / "cedar").write_text(text)
        given = ("--name", "payments", "--file", str(tmp_path / "cedar"))
        local.operator("policy", "put", *given, "--reason", "CHG-4712")

    return put


def answering(traced):
    return {(one["role"], one["who"], one["account"]) for one in traced["accountable"]}


def state_of(local, spiffe_id):
    return local.operator_json("agent", "show", "--spiffeID", spiffe_id)["state"]


def test_the_life_of_an_agent(local, attestor, payer, carl, put_policy, tmp_path):
    # 1. A class that asks for two people. Carl registers the agent, and may not approve it himself.
    local.operator("class", "put", "--name", "payments", "--twoPeople", "--x509TTL", "10m")
    registered = carl("agent", "register", *ID, *OWNER, *PURPOSE, "--class", "payments")
    assert (registered.returncode, registered.stderr) == (0, "")
    alone = carl("agent", "activate", *ID, "--reason", "it is mine")
    assert (alone.returncode, "asks for two people" in alone.stderr) == (1, True)

    # 2. Its entry says which process it is. Nobody gets the identity before it is approved.
    selectors = [UID, f"unix:path:{payer.path}"]
    local.register("/agent/payer", attestor.node_id, *selectors, options=["--perProcess"])
    with payer:
        payer.until(granted=False)

        # 3. Alice, who owns it, approves: the process that waits has its SVID.
        local.operator("agent", "activate", *ID, "--reason", "approved in CHG-4711")
        _, (first,) = payer.until(granted=True)

        # The trail has it: what it was given, on which node, as which process, and who answers for it.
        (issued,) = local.operator_json("audit", "search", "--type", "svid.", "--credential", first)["events"]
        assert (issued["type"], issued["resource"]) == ("svid.issued", PAYER)
        traced = local.operator_json("trace", first)
        assert traced["issued"] == issued
        assert traced["issued"]["detail"]["evidence"]["process"]["pid"] == payer.pid
        assert traced["node"]["resource"] == issued["attest"]["node"] == attestor.node_id
        assert traced["state"].startswith("valid until")
        assert answering(traced) == ANSWERING

        # 4. A policy that asks for nodes with a TPM runs in shadow first. Another process still gets an SVID;
        #    what would have come of it is in the trail, and `simulate` finds it.
        put_policy(POLICY.replace("forbid", '@mode("shadow") forbid'))
        with Payer(payer.path, attestor) as another:
            _, (watched,) = another.until(granted=True)
        (event,) = local.operator_json("audit", "search", "--type", "svid.", "--credential", watched)[
            "events"
        ]
        assert event["detail"]["shadow"] == {"allowed": False, "ids": ["payments#tpm"]}
        simulated = local.operator_json("policy", "simulate", "--since", "1h", "--shadow")
        assert {flip["spiffe_id"] for flip in simulated["flips"]} == {PAYER}

        # 5. Enforced, it refuses the next process, and the trail says why. Then it lets such nodes pass.
        put_policy(POLICY)
        with Payer(payer.path, attestor) as another:
            another.until(granted=False)
        refused = local.operator_json("trace", PAYER)["refused"]
        assert {tuple(event["policy"]["ids"]) for event in refused} == {("payments#tpm",)}
        put_policy(POLICY.replace("< 3", "< 1"))
        with Payer(payer.path, attestor) as another:
            _, (third,) = another.until(granted=True)
        traced = local.operator_json("trace", third)
        assert traced["issued"]["policy"]["ids"] == ["payments#all"]
        assert answering(traced) == ANSWERING | {("wrote policy payments", f"{IDP}|alice", "local:uid=0")}

        # 6. Suspended while it runs: its stream ends, and its certificate is on the revocation list.
        began = time.monotonic()
        local.operator("agent", "suspend", *ID, "--reason", "pays twice")
        at, _ = payer.until(granted=False)
        assert at - began < TOLD_WITHIN
        listed = local.operator_json("revocation", "list")["revoked"]
        revoked = {(one["key"], one["reason"]) for one in listed if PAYER in (one["key"], one["spiffe_id"])}
        assert revoked == {(serial, "certificate_hold") for serial in (first, watched, third)}

        # 7. Only who owns it gives it back; then the same process has another certificate.
        assert carl("agent", "resume", *ID, "--reason", "mended").returncode == 1
        local.operator("agent", "resume", *ID, "--reason", "mended")
        _, (second,) = payer.until(granted=True)
        assert second != first

        # 8. Retired: the stream ends for good, and a signed certificate says what is still out there.
        began = time.monotonic()
        local.operator("agent", "retire", *ID, "--reason", "replaced", "--certificate", str(tmp_path / "end"))
        at, _ = payer.until(granted=False)
        assert at - began < TOLD_WITHIN
    token = Jws.parse_unverified((tmp_path / "end").read_text().strip(), typ="agent-retirement+jwt")
    document = local.operator("bundle", "show", "--format", "spiffe").stdout
    bundle = Bundle.parse(TrustDomain("example.org"), document.encode())
    token.check_signature(bundle.jwt_authority(token.key_id()).public_key)
    said = token.payload
    assert (said["sub"], said["owner"], said["reason"]) == (PAYER, f"{IDP}|alice", "replaced")
    assert second in {one["id"] for one in said["outstanding"]}
    assert max(one["exp"] for one in said["outstanding"]) <= said["fully_dead_at"]

    # 9. Nobody gets that SPIFFE ID again.
    again = local.operator("agent", "register", *ID, *OWNER, *PURPOSE, check=False)
    assert (again.returncode, "exists, and is retired" in again.stderr) == (1, True)
    with payer:
        payer.until(granted=False)
    assert state_of(local, PAYER) == "RETIRED"

    # 10. What was done with it is told for ever, and nothing of it was changed.
    traced = local.operator_json("trace", second)
    assert traced["state"].startswith("revoked since")
    assert answering(traced) == ANSWERING | {
        ("resumed the agent", f"{IDP}|alice", "local:uid=0"),
        ("wrote policy payments", f"{IDP}|alice", "local:uid=0"),
    }
    done = [(event["type"], event["outcome"].get("reason", "")) for event in traced["life"]]
    assert done == [
        ("agent.registered", ""),
        ("agent.activated", "approved in CHG-4711"),
        ("agent.suspended", "pays twice"),
        ("agent.resumed", "mended"),
        ("agent.retired", "replaced"),
        ("agent.retirement_certified", ""),
    ]
    told = local.operator("trace", PAYER).stdout
    assert f"Owner      : {IDP}|alice" in told
    eventually(lambda: "Nothing was changed" in local.operator("audit", "verify").stdout, True)


@pytest.fixture
def lender(local):
    """An active agent of Alice's, and its SPIFFE ID."""
    spiffe_id = f"spiffe://example.org/agent/lender-{time.monotonic_ns()}"
    local.operator("agent", "register", "--spiffeID", spiffe_id, *OWNER, *PURPOSE)
    local.operator("agent", "activate", "--spiffeID", spiffe_id, "--reason", "approved")
    return spiffe_id


@contextlib.contextmanager
def without_people(local, folder, meanwhile=lambda: None):
    """The issuer starts with a list of people that it cannot read, and at the end with one that it can.

    `meanwhile` is called between the issuer's end and its start.
    """
    people = folder / "people.json"
    readable = people.read_bytes()
    local.issuer.stop()
    meanwhile()
    people.write_text("{")
    local.start_issuer()
    try:
        yield
    finally:
        people.write_bytes(readable)
        local.issuer.stop()
        local.start_issuer()


def test_while_the_database_is_away_nothing_is_changed_or_signed(local, lender, tmp_path):
    step = ("--spiffeID", lender, "--reason", "lends too much")
    mint = ("x509", "mint", "--spiffeID", lender, "--write", str(tmp_path))
    with contextlib.closing(sqlite3.connect(local.folder / "issuer" / "issuer.db")) as other:
        other.execute("BEGIN EXCLUSIVE")  # as whoever copies or mends it
        suspended, minted = (
            local.operator("agent", "suspend", *step, check=False),
            local.operator(*mint, check=False),
        )
        assert (suspended.returncode, "database failed" in suspended.stderr) == (1, True)
        assert (minted.returncode, "database failed" in minted.stderr) == (1, True)
        assert list(tmp_path.iterdir()) == []
        assert state_of(local, lender) == "ACTIVE"  # it was not suspended, and nobody is told that it was
        other.rollback()
    local.operator(*mint)
    local.operator("agent", "suspend", *step)
    assert state_of(local, lender) == "SUSPENDED"
    assert local.operator(*mint, check=False).returncode == 1


def test_what_the_issuer_cannot_understand_gives_nobody_an_identity(local, lender, folder):
    step = ("--spiffeID", lender, "--reason", "looked at")

    def change_state():
        with contextlib.closing(sqlite3.connect(local.folder / "issuer" / "issuer.db")) as database, database:
            database.execute("UPDATE agents SET state = 'paused' WHERE spiffe_id = ?", [lender])

    # 1. It comes back to a state that it does not know, of a later version perhaps, and to a list of people
    #    that cannot be read.
    with without_people(local, folder, change_state):
        # 2. Such an agent is suspended. Who might own it is not known: nobody resumes it, or has another one.
        assert state_of(local, lender) == "SUSPENDED"
        minted = local.operator("x509", "mint", "--spiffeID", lender, check=False)
        assert (minted.returncode, "is suspended" in minted.stderr) == (1, True)
        for refused in (
            local.operator("agent", "resume", *step, check=False),
            local.operator("agent", "register", "--spiffeID", f"{lender}-2", *OWNER, *PURPOSE, check=False),
        ):
            assert (refused.returncode, "the list of people cannot be read" in refused.stderr) == (1, True)

    # 3. With the list, its owner decides.
    local.operator("agent", "resume", *step)
    local.operator("x509", "mint", "--spiffeID", lender)


def test_an_older_copy_of_the_database_gives_no_agent_back(local, lender, tmp_path):
    """Whoever can write its files may put the database back to before an agent was retired: the log knows."""
    database = local.folder / "issuer"

    def copy(source, target):
        for path in target.glob("issuer.db*"):
            path.unlink()
        for path in source.glob("issuer.db*"):
            (target / path.name).write_bytes(path.read_bytes())

    older, newer = tmp_path / "older", tmp_path / "newer"
    older.mkdir()
    newer.mkdir()
    local.issuer.stop()
    copy(database, older)
    local.start_issuer()
    local.operator("agent", "retire", "--spiffeID", lender, "--reason", "for good")
    local.issuer.stop()
    copy(database, newer)
    copy(older, database)
    local.start_issuer()
    try:
        assert state_of(local, lender) == "ACTIVE"
        for refused in (
            local.operator("x509", "mint", "--spiffeID", lender, "--write", str(tmp_path), check=False),
            local.operator("agent", "register", "--spiffeID", f"{lender}-2", *OWNER, *PURPOSE, check=False),
        ):
            assert (refused.returncode, "it was rolled back" in refused.stderr) == (1, True), refused.stderr
        assert list(tmp_path.glob("*.pem")) == []
    finally:
        local.issuer.stop()
        copy(newer, database)
        local.start_issuer()
    assert state_of(local, lender) == "RETIRED"
    assert local.operator("x509", "mint", "--spiffeID", lender, check=False).returncode == 1


def test_taking_back_asks_nobody_who_cannot_be_known(local, lender, folder):
    """While the list of people cannot be read, an agent can still be stopped."""
    with without_people(local, folder):
        local.operator("agent", "suspend", "--spiffeID", lender, "--reason", "lends too much")
        local.operator("agent", "retire", "--spiffeID", lender, "--reason", "for good")
