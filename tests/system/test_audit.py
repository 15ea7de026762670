# SPDX-License-Identifier: Apache-2.0
"""The audit trail of real daemons: found, verified, proved, witnessed; and no secret in it."""

import asyncio
import base64
import json
import shutil
import subprocess
import sys

import pytest

from deploy.local import free_port, run
from spiffekit.keys import private_key_from_pem, private_key_to_der
from spiffekit.workload import WorkloadApi
from tests.spiffekit.transparency.logs import signer
from tests.system.conftest import UID, eventually

ID = "spiffe://example.org"


class WitnessProcess:
    """`issuer audit witness`, as it runs on another host."""

    def __init__(self, folder, port, log_key):
        self.command = [
            sys.executable, "-m", "issuer", "audit", "witness", "--name", "witness.example",
            "--dir", str(folder),
            "--listen", f"127.0.0.1:{port}", "--log", log_key,
        ]  # fmt: skip
        self.start()

    def start(self):
        quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(self.command, text=True, **quiet)
        self.key = self.process.stdout.readline().strip()

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture(scope="module")
def served(local, attestor):
    """What a workload got: an X.509-SVID and a JWT-SVID."""
    entry = local.register("/audited", attestor.node_id, UID)

    async def fetch():
        async with WorkloadApi.connect(attestor.endpoint) as api:
            svid = (await api.fetch_x509()).svids[0]
            (token,) = await api.fetch_jwt_svids(["test"])
            return svid, token.token

    eventually(lambda: len(local.operator_json("entry", "show")["entries"]), 1)
    svid, token = asyncio.run(fetch())
    return {"entry": entry, "svid": svid, "token": token}


def sealed(local):
    """Wait until every event is sealed, and return how many there are."""
    last = local.operator_json("audit", "tail", "--lines", "1")["events"][0]["seq"]
    eventually(lambda: local.operator("audit", "prove", str(last), check=False).returncode, 0)
    return last


def audit(*arguments, check=True):
    return run("issuer", "audit", *map(str, arguments), check=check)


def test_an_svid_is_found_by_its_serial_number_and_proved_to_anyone(local, served, folder):
    serial = served["svid"].leaf.serial_number
    by_serial = ["audit", "search", "--credential", hex(serial)]
    eventually(lambda: len(local.operator_json(*by_serial)["events"]), 2)
    event, fetched = sorted(local.operator_json(*by_serial)["events"], key=lambda event: int(event["seq"]))
    assert (event["type"], event["resource"]) == ("svid.issued", f"{ID}/audited")
    assert (fetched["type"], fetched["resource"]) == ("node.svid_fetched", f"{ID}/audited")
    assert event["detail"]["entry"] == served["entry"]
    key, file = local.operator("audit", "key").stdout.strip(), folder / "svid.tlog-proof"
    sealed(local)
    local.operator("audit", "prove", str(event["seq"]), "--file", str(file))
    shown = json.loads(audit("check-proof", file, "--key", key, "--output", "json").stdout)
    assert shown["event"] == event


def test_the_whole_trail_is_verified_while_it_grows(local, served, folder):
    key, kept = local.operator("audit", "key").stdout.strip(), folder / "kept.checkpoint"
    local.operator("audit", "checkpoint", "--file", str(kept))
    local.register("/more", f"{ID}/nodes/x", UID)
    size = sealed(local)
    for where in (["--socketPath", local.admin_socket], ["--dir", local.folder / "issuer" / "audit"]):
        said = json.loads(audit("verify", "--key", key, "--from", kept, *where, "--output", "json").stdout)
        assert said["size"] >= size


def forms(secret):
    """A secret as it may stand somewhere."""
    return {
        secret,
        base64.b64encode(secret),
        base64.urlsafe_b64encode(secret).rstrip(b"="),
        secret.hex().encode(),
    }


def private_parts(key):
    """What of a private key must stand nowhere."""
    numbers = getattr(key, "private_numbers", None)
    raw = key.private_bytes_raw() if numbers is None else None
    value = raw or numbers().private_value.to_bytes((key.key_size + 7) // 8)
    return {value, private_key_to_der(key)}


def test_no_secret_is_in_the_trail_or_the_logs(local, attestor, served, folder):
    """Every private key and token that existed: in database, log, all exports, and what the daemons log."""
    unused = local.operator_json("token", "generate")["value"]
    sealed(local)
    secrets = {unused.encode(), served["token"].encode(), served["token"].rpartition(".")[2].encode()}
    own = [*folder.rglob("keys/*.pem"), *folder.rglob("audit-key/*.pem")]
    assert len(own) >= 4, "of authorities, of the log, and of the node"
    for path in own:
        for value in private_parts(private_key_from_pem(path.read_bytes())):
            secrets |= forms(value)
        secrets.add(b"".join(path.read_bytes().split(b"\n")[1:-2])[:40])
    for value in private_parts(private_key_from_pem(served["svid"].key_pem())):
        secrets |= forms(value)
    places = {
        path: path.read_bytes() for path in (local.folder / "issuer" / "audit").rglob("*") if path.is_file()
    }
    database = (local.folder / "issuer").glob("issuer.db*")
    places |= {path: path.read_bytes() for path in [*database, local.issuer.log, attestor.daemon.log]}
    for form in ("jsonl", "ocsf", "otlp"):
        places[form] = local.operator("audit", "export", "--output", form).stdout.encode()
    assert len(places) >= 9
    assert b"svid.issued" in places["jsonl"]
    # What is still to be redeemed, the database has to know.
    known = {path for path in places if "issuer.db" in str(path)}
    found = [
        (str(place), secret[:20])
        for place, content in places.items()
        for secret in secrets
        if secret in content and not (place in known and secret == unused.encode())
    ]
    assert found == []


def test_a_witness_on_another_host_knows_when_the_whole_disk_was_rolled_back(local, served, folder):
    # 1. The witness learns the log's key, and the issuer the witness's.
    port = free_port()
    witness = WitnessProcess(folder / "witness", port, local.operator("audit", "key").stdout.strip())
    try:
        table = {"url": f"http://127.0.0.1:{port}", "key": witness.key}
        local._issuer_settings["audit.witness.other"] = table
        local.issuer.stop()
        local.start_issuer()
        # 2. Heads are cosigned, and so are proofs; through a restart of the witness, too.
        key = local.operator("audit", "key").stdout.strip()
        both = ["--key", key, "--witness", witness.key]
        witness.stop()
        witness.start()
        local.register("/witnessed", f"{ID}/nodes/x", UID)
        number = sealed(local)
        eventually(lambda: local.operator("audit", "verify", *both, check=False).returncode, 0)
        file = folder / "witnessed.tlog-proof"
        local.operator("audit", "prove", str(number), "--file", str(file))
        assert "is among the" in audit("check-proof", file, *both).stdout
        # 3. Somebody puts back the whole folder of an hour ago, database, log, keys and all.
        local.issuer.stop()
        shutil.copytree(local.folder / "issuer", folder / "earlier")
        local.start_issuer()
        local.register("/forgotten", f"{ID}/nodes/x", UID)
        sealed(local)
        local.issuer.stop()
        shutil.rmtree(local.folder / "issuer")
        shutil.copytree(folder / "earlier", local.folder / "issuer")
        local.start_issuer()
        # 4. The issuer finds out by itself, and does nothing any more that it would have to record.
        eventually(lambda: "it was rolled back" in refused(local), True)
        assert "audit log cannot be sealed" in local.issuer.log.read_text()
    finally:
        witness.stop()
        # Stories stand in any order: the next one finds an issuer that works.
        local._issuer_settings.pop("audit.witness.other", None)
        local.issuer.stop()
        local.start_issuer()


def refused(local):
    local.operator("entry", "show")  # who only reads is served
    made = local.operator("token", "generate", check=False)
    return made.stderr if made.returncode else ""


def test_a_witness_that_cannot_run_says_why(folder):
    given = ["--name", "w", "--dir", folder / "w", "--log", str(signer("example.org/audit").key)]
    for more, message in [
        (["--listen", "nowhere"], "--listen: 'nowhere' is not ADDRESS:PORT"),
        (["--log", "nonsense"], "verifier key: key ID '' is not 8 hexadecimal digits"),
        (["--passphraseFile", "/nowhere"], "passphrase_file: /nowhere: No such file or directory"),
    ]:
        ended = audit("witness", *given, *more, check=False)
        assert ended.returncode == 2
        assert message in ended.stderr
