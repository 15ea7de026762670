# SPDX-License-Identifier: Apache-2.0
"""`issuer audit`, as people type it: read, verify, prove; and whatever was changed is found."""

import asyncio
import json
import random
import shutil

import pytest
from click.testing import CliRunner

from issuer.cli import audit as commands
from issuer.cli import audit_input, main
from issuer.model import CredentialFacts, Outcome
from spiffekit.transparency.notes import Checkpoint, KeyUse, Note
from spiffekit.transparency.proofs import Proof
from tests.issuer.store.test_events import a_record
from tests.spiffekit.transparency.logs import signer

SERIAL = 0xAB12


@pytest.fixture
def issuer(world):
    """Run a command; return its exit status, what it printed, and what it complained about."""

    async def run(verb, *arguments, offline=False):
        line = ["audit", verb, *map(str, arguments)]
        line += [] if offline else ["--socketPath", str(world.socket)]
        ended = await asyncio.to_thread(CliRunner().invoke, main, line)
        return ended.exit_code, ended.stdout, ended.stderr

    return run


@pytest.fixture
async def sealed(world):
    """A world of 300 sealed events."""
    await world.database.record(
        a_record(
            credential=CredentialFacts(kind="x509-svid", serial=str(SERIAL), exp="2026-01-02T04:04:05Z")
        ),
        a_record(type="svid.refused", outcome=Outcome.DENIED, reason="no\nmore", actor="alice"),
        *[a_record(type="entry.created", detail={"n": n}) for n in range(298)],
    )
    await world.seal()
    return world


@pytest.fixture
def key(world):
    return str(world.audit_signer.key)


def numbers(output):
    return [int(line.split()[0]) for line in output.splitlines()]


async def test_the_latest_events_are_shown(issuer, sealed):
    code, output, _ = await issuer("tail")
    assert (code, numbers(output)) == (0, list(range(281, 301)))
    assert numbers((await issuer("tail", "--lines", "2"))[1]) == [299, 300]
    assert numbers((await issuer("tail", "--lines", "0"))[1]) == []
    assert numbers((await issuer("tail", "--actor", "alice"))[1]) == [2]
    document = json.loads((await issuer("tail", "--lines", "1", "--output", "json"))[1])
    assert [event["seq"] for event in document["events"]] == [300]


async def test_an_event_is_one_line_whatever_it_says(issuer, sealed):
    _, output, _ = await issuer("search", "--type", "svid.refused")
    (line,) = output.splitlines()
    assert line.split("  ") == [
        "2", "2026-01-02T03:04:05.678901Z", "svid.refused", "deny no\\nmore", "alice", "spiffe://example.org/a",
    ]  # fmt: skip


async def test_what_comes_is_followed(issuer, sealed, monkeypatch):
    await issuer("tail")  # whatever a first call needs
    waits = []

    def wait(seconds):
        waits.append(seconds)
        if len(waits) == 2:
            raise KeyboardInterrupt
        future = asyncio.run_coroutine_threadsafe(sealed.database.record(a_record(), a_record()), loop)
        future.result(10)

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(audit_input.time, "sleep", wait)
    code, output, _ = await issuer("tail", "--lines", "1", "--follow")
    assert (code, numbers(output), waits) == (1, [300, 301, 302], [1.0, 1.0])


async def test_following_has_no_end_and_so_is_no_document(issuer, sealed):
    code, _, said = await issuer("tail", "--follow", "--output", "json")
    assert code == 2
    assert "--follow has no end" in said


@pytest.mark.parametrize("serial", [str(SERIAL), "0xab12", "AB:12", "ab:12"])
async def test_a_certificate_is_found_by_its_serial_number_as_tools_print_it(issuer, sealed, serial):
    code, output, _ = await issuer("search", "--credential", serial)
    assert (code, numbers(output)) == (0, [1])


async def test_events_are_searched(issuer, sealed):
    assert numbers((await issuer("search", "--type", "svid."))[1]) == [1, 2]
    assert numbers((await issuer("search", "--since", "2026-01-02T03:04:06"))[1]) == []
    assert len(numbers((await issuer("search", "--since", "2026-01-02", "--until", "2026-01-03"))[1])) == 300
    assert numbers((await issuer("search", "--since", "1h"))[1]) == []
    code, output, said = await issuer("search", "--limit", "3")
    assert (code, numbers(output), said) == (0, [1, 2, 3], "warning: there are more than 3, see --limit\n")
    found = json.loads((await issuer("search", "--type", "svid.issued", "--output", "json"))[1])["events"]
    assert [event["credential"]["serial"] for event in found] == [str(SERIAL)]
    assert numbers((await issuer("search", "--id", found[0]["id"]))[1]) == [1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--credential", "0xyz"], "'0xyz' is no hexadecimal number"),
        (["--since", "yesterday"], "'yesterday' is neither a date, an instant nor a span like 2h"),
    ],
)
async def test_a_bad_search_is_refused(issuer, sealed, arguments, said):
    code, _, error = await issuer("search", *arguments)
    assert code == 2
    assert said in error


async def test_events_come_in_pages(issuer, sealed, monkeypatch):
    monkeypatch.setattr(audit_input, "PAGE", 7)
    assert numbers((await issuer("search"))[1]) == list(range(1, 301))


async def test_the_whole_trail_is_verified(issuer, sealed, key):
    code, output, said = await issuer("verify")
    assert (code, output.startswith("Nothing was changed: 300 events, root ")) == (0, True)
    assert said == f"warning: the key is the issuer's own word; keep it, and give it with --key: {key}\n"
    assert await issuer("verify", "--key", key) == (0, output, "")
    folder = sealed.audit_files.folder
    assert await issuer("verify", "--dir", folder, "--key", key, offline=True) == (0, output, "")
    document = json.loads((await issuer("verify", "--key", key, "--output", "json"))[1])
    assert (document["origin"], document["size"], document["read"]) == ("example.org/audit", 300, 300)


async def test_the_log_is_verified_from_one_checkpoint_to_another(issuer, sealed, key, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    assert await issuer("checkpoint", "--file", first) == (0, "", "")
    for _ in range(2):
        await sealed.database.record(*[a_record(detail={"n": n}) for n in range(300)])
        await sealed.seal()
        if not second.exists():
            await issuer("checkpoint", "--file", second)
    folder = sealed.audit_files.folder
    for where in ([], ["--dir", folder]):
        offline = bool(where)
        kept = ["--key", key, "--from", first]
        code, output, _ = await issuer("verify", *where, *kept, offline=offline)
        assert (code, "900 events, " in output) == (0, True)
        code, output, _ = await issuer("verify", *where, *kept, "--to", second, offline=offline)
        assert (code, "600 events, " in output) == (0, True)
        code, _, error = await issuer(
            "verify", *where, "--key", key, "--from", second, "--to", first, offline=offline
        )
        assert (code, error) == (1, "error: the log has 300 entries, and had 600 before\n")
    assert (await issuer("checkpoint"))[1] == sealed.audit_files.checkpoint().decode()


async def test_a_log_that_is_not_the_one_of_the_kept_checkpoint_is_refused(issuer, sealed, key, tmp_path):
    text = Checkpoint("example.org/audit", 200, b"r" * 32).text
    forked = Note(text, (sealed.audit_signer.sign(text, now=sealed.clock.now()),)).encode()
    (tmp_path / "kept").write_bytes(forked)
    for where in ([], ["--dir", sealed.audit_files.folder]):
        code, _, error = await issuer(
            "verify", *where, "--key", key, "--from", tmp_path / "kept", offline=bool(where)
        )
        assert (code, error) == (1, "error: the first 200 entries are not those of the earlier checkpoint\n")


async def test_a_log_without_a_witness_is_refused_where_one_is_asked_for(issuer, sealed, key):
    witness = signer("witness.example", KeyUse.COSIGNATURE).key
    code, _, error = await issuer("verify", "--key", key, "--witness", witness)
    assert (code, error) == (1, "error: checkpoint is not signed by witness.example\n")


async def test_where_no_issuer_is_asked_the_key_has_to_be_given(issuer, sealed, key, tmp_path):
    for line in (["verify"], ["prove", "1"]):
        code, _, error = await issuer(*line, "--dir", sealed.audit_files.folder, offline=True)
        assert code == 2
        assert "--key is needed where no issuer is asked" in error
    code, _, error = await issuer("verify", "--dir", tmp_path, "--key", key, offline=True)
    assert (code, error) == (1, f"error: {tmp_path}: there is no log\n")
    code, _, error = await issuer("verify", "--key", "nonsense")
    assert code == 2
    assert "verifier key: key ID '' is not 8 hexadecimal digits" in error


CHANGES = {
    "a byte": "UPDATE audit SET event = CAST(substr(CAST(event AS TEXT), 1, {at}) || '#' || "
    "substr(CAST(event AS TEXT), {at} + 2) AS BLOB) WHERE sequence = {row}",
    "the last ones dropped": "DELETE FROM audit WHERE sequence >= {row}",
    "one dropped": "DELETE FROM audit WHERE sequence = {row}",
    "one forged": "UPDATE audit SET event = (SELECT event FROM audit WHERE sequence = {other}) "
    "WHERE sequence = {row}",
    "all dropped": "DELETE FROM audit",
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_row_that_was_changed_is_found(issuer, sealed, key, change):
    """Whoever has the database file can drop the triggers that protect it."""
    row, at = random.randint(1, 300), random.randint(1, 200)
    statement = CHANGES[change].format(row=row, at=at, other=row % 300 + 1)
    with sealed.database._engine.begin() as connection:
        for verb in ("update", "delete"):
            connection.exec_driver_sql(f"DROP TRIGGER audit_no_{verb}")
        connection.exec_driver_sql(statement)
    code, _, error = await issuer("verify", "--key", key)
    assert (code, error != "") == (1, True), (statement, error)


@pytest.mark.parametrize("change", ["flip", "cut", "drop", "swap", "remove", "exchange"])
async def test_a_file_of_the_log_that_was_changed_is_found(issuer, sealed, key, change, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(sealed.audit_files.folder, copy)
    files = sorted(path for path in copy.rglob("*") if path.is_file())
    path, other = random.sample(files, 2)
    content = bytearray(path.read_bytes())
    at, to = sorted(random.sample(range(len(content)), 2))
    match change:
        case "flip":
            content[at] ^= random.randint(1, 255)
        case "cut":
            del content[at:]
        case "drop":
            del content[at : at + 1]
        case "swap" if content[at] != content[to]:
            content[at], content[to] = content[to], content[at]
        case "exchange":
            content = other.read_bytes()
    if change == "remove":
        path.unlink()
    elif bytes(content) == path.read_bytes():
        return
    else:
        path.write_bytes(content)
    code, _, error = await issuer("verify", "--dir", copy, "--key", key, offline=True)
    assert (code, error != "") == (1, True), (path, at, error)


async def test_a_proof_is_written_and_checked_offline(issuer, sealed, key, tmp_path):
    file = tmp_path / "event.tlog-proof"
    assert await issuer("prove", "2", "--file", file) == (0, "", "")
    code, output, _ = await issuer("check-proof", file, "--key", key, offline=True)
    assert code == 0
    assert output.startswith("Event 2 is among the 300 events of example.org/audit:\n")
    assert "alice" in output
    document = json.loads(
        (await issuer("check-proof", file, "--key", key, "--output", "json", offline=True))[1]
    )
    assert (document["event"]["seq"], document["size"]) == (2, 300)
    folder = sealed.audit_files.folder
    code, printed, _ = await issuer("prove", "2", "--dir", folder, "--key", key, offline=True)
    assert (code, printed) == (0, file.read_text())
    code, _, error = await issuer("prove", "301", "--dir", folder, "--key", key, offline=True)
    assert (code, error) == (1, "error: event 301 is not sealed in the log yet: try again in a second\n")


@pytest.mark.parametrize("attempt", range(10))
async def test_a_proof_that_was_changed_is_refused(issuer, sealed, key, tmp_path, attempt):
    file = tmp_path / "event.tlog-proof"
    await issuer("prove", "2", "--file", file)
    content = bytearray(file.read_bytes())
    content[random.randrange(len(content))] ^= random.randint(1, 255)
    file.write_bytes(content)
    code, output, error = await issuer("check-proof", file, "--key", key, offline=True)
    assert (code, output) == (1, ""), error


async def test_a_proof_of_something_else_is_refused(issuer, sealed, key, tmp_path):
    file = tmp_path / "event.tlog-proof"
    proof = Proof.parse((await issuer("prove", "2"))[1].encode())
    for extra, said in (
        (None, "the proof does not have the event with it"),
        (b'{"seq":2}', "inclusion proof of leaf 1 does not lead to the root"),
    ):
        file.write_bytes(Proof(proof.index, proof.hashes, proof.checkpoint, extra).encode())
        code, _, error = await issuer("check-proof", file, "--key", key, offline=True)
        assert (code, error) == (1, f"error: {said}\n")
    other = signer("example.org/other").key
    code, _, error = await issuer("check-proof", file, "--key", other, offline=True)
    assert (code, error) == (1, "error: note is not signed by a known key\n")


async def test_the_key_is_printed(issuer, sealed, key):
    assert await issuer("key") == (0, f"{key}\n", "")
    assert json.loads((await issuer("key", "--output", "json"))[1]) == {"key": key}


def test_a_text_of_an_event_stays_itself():
    assert commands._text("a") == "a"
    assert commands._text({"é": 1}) == '{"é": 1}'


async def test_events_are_exported_a_line_each(issuer, sealed):
    kept = await sealed.database.read(lambda tx: tx.audit.leaves(0, 1000))
    code, output, _ = await issuer("export")
    assert (code, output.encode().splitlines()) == (0, [leaf for _, leaf in kept])
    assert len((await issuer("export", "--after", "290"))[1].splitlines()) == 10
    (ocsf,) = (await issuer("export", "--type", "svid.issued", "--output", "ocsf"))[1].splitlines()
    assert json.loads(ocsf)["session"]["uid"] == str(SERIAL)
    (otlp,) = (await issuer("export", "--type", "svid.issued", "--output", "otlp"))[1].splitlines()
    (record,) = json.loads(otlp)["resourceLogs"][0]["scopeLogs"][0]["logRecords"]
    assert record["body"]["stringValue"].encode() == kept[0][1]
