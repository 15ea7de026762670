# SPDX-License-Identifier: Apache-2.0
"""What the commands say when something is wrong: one line that names what and why, and an exit status."""

import contextlib
import os
import socket
import sqlite3
import subprocess
import sys

import pytest

from deploy.local import free_port, run
from tests.system.conftest import UID

BASE = ["--spiffeID", "spiffe://example.org/x", "--parentID", "spiffe://example.org/n"]


def create(local, *arguments):
    return local.operator("entry", "create", *BASE, *arguments, check=False)


def test_a_selector_with_a_typo_is_warned_about_or_refused(local):
    refused = create(local, "--selector", "unix:uuid:1000", "--strict")
    assert refused.returncode == 2
    assert "selector unix:uuid:1000: not a kind of 'unix', which knows uid, gid, user" in refused.stderr
    warned = create(local, "--selector", "unix:uid:me")
    assert warned.returncode == 0
    assert warned.stderr == "warning: selector unix:uid:me: uid has another form of value\n"


def test_an_entry_that_exists_is_shown_instead_of_made_twice(local):
    first = create(local, "--selector", "unix:uid:1", "--entryID", "mine")
    again = create(local, "--selector", "unix:uid:1")
    assert (first.returncode, again.returncode) == (0, 1)
    assert "Entry ID        : mine" in again.stdout
    assert "already exists" in again.stderr


def test_federating_with_an_unknown_trust_domain_is_refused(local):
    refused = create(local, "--selector", UID, "--federatesWith", "nobody.test")
    assert refused.returncode == 1
    assert "nobody.test" in refused.stderr


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ("spiffe://example.org/a/../b", "path cannot contain dot segments"),
        ("spiffe://example.org//b", "path cannot contain empty segments"),
        ("spiffe://example.org/%2e", "use only a-z, A-Z, 0-9"),
        ("spiffe://example.org/a\nb", "use only a-z, A-Z, 0-9"),
        ("spiffe://example.org/ä", "use only a-z, A-Z, 0-9"),
        ("spiffe://Example.org/a", "invalid trust domain 'Example.org'"),
        ("https://example.org/a", "is not 'spiffe'"),
        ("spiffe://example.org/" + "a" * 2048, "longer than 2048 bytes"),
    ],
    ids=["dots", "empty", "percent", "newline", "not-ascii", "upper", "scheme", "long"],
)
def test_an_id_that_is_none_is_refused_with_the_rule(local, value, rule):
    refused = local.operator(
        "entry", "create", "--spiffeID", value, "--parentID", "spiffe://example.org/n", "--selector", UID,
        check=False,
    )  # fmt: skip
    assert refused.returncode == 2
    assert rule in refused.stderr


def configured(folder, name, text):
    path = folder / f"{name}-broken.toml"
    path.write_text(text)
    command = [sys.executable, "-m", name, "run", "--config", str(path)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return path, answer


def test_every_error_of_a_configuration_is_reported_at_once(tmp_path):
    path, answer = configured(
        tmp_path,
        "attestor",
        """
        [attestor]
        trust_domain = "not a domain"
        socket_path = "/run/a/api.sock"
        admin_socket = "/run/a/api.sock"
        data_dir = "/var/lib/a"
        insecure_bootstrap = true
        sync_interval = "1ms"
        [key_manager.memory]
        [node_attestor.join_token]
        token = "t"
        [workload_attestor.unix]
        """,
    )
    assert answer.returncode == 2
    rule = "invalid trust domain 'not a domain': use only a-z, 0-9, '.', '-' and '_'"
    assert answer.stderr.splitlines() == [
        f"error: {path}: attestor.trust_domain: {rule}",
        f"error: {path}: attestor.sync_interval: shorter than a second",
        f"error: {path}: attestor.admin_socket: is already socket_path",
    ]


def test_an_admin_socket_where_everybody_may_go_is_refused(tmp_path):
    _, answer = configured(
        tmp_path,
        "attestor",
        """
        [attestor]
        trust_domain = "example.org"
        socket_path = "/run/a/api.sock"
        admin_socket = "/run/a/private/admin.sock"
        data_dir = "/var/lib/a"
        insecure_bootstrap = true
        [key_manager.memory]
        [node_attestor.join_token]
        token = "t"
        [workload_attestor.unix]
        """,
    )
    assert "attestor.admin_socket: below /run/a, which every user may enter" in answer.stderr
    assert answer.returncode == 2


def test_an_unknown_plugin_is_named_with_those_that_exist(tmp_path):
    _, answer = configured(
        tmp_path,
        "issuer",
        f"""
        [issuer]
        trust_domain = "example.org"
        data_dir = "{tmp_path}"
        admin_socket = "{tmp_path}/api.sock"
        [key_manager.cloud]
        """,
    )
    assert answer.returncode == 2
    assert "key_manager.cloud" in answer.stderr
    assert "disk, memory" in answer.stderr


WITHOUT_A_DAEMON = [
    ("issuer", "entry count", "--socketPath"),
    ("issuer", "healthcheck", "--socketPath"),
    ("attestor", "healthcheck", "--socketPath"),
    ("attestor", "explain 1", "--socketPath, and attestor.admin_socket"),
    ("attestor", "api fetch x509", "--socketPath, and SPIFFE_ENDPOINT_SOCKET"),
    ("attestor", "api fetch jwt --audience db", "--socketPath, and SPIFFE_ENDPOINT_SOCKET"),
    ("attestor", "api validate jwt --audience db --svid x", "--socketPath, and SPIFFE_ENDPOINT_SOCKET"),
    ("attestor", "api watch", "--socketPath, and SPIFFE_ENDPOINT_SOCKET"),
]


@pytest.mark.parametrize(("program", "command", "see"), WITHOUT_A_DAEMON)
def test_a_command_without_a_daemon_says_so_in_one_line(program, command, see, tmp_path):
    never, dead = tmp_path / "never.sock", tmp_path / "dead.sock"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(dead))
    for path in (never, dead):
        answer = run(program, *command.split(), "--socketPath", str(path), check=False)
        assert answer.returncode == 1
        assert answer.stderr == f"error: no {program} listens at {path} (see {see})\n"


def test_an_endpoint_that_the_environment_names_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("SPIFFE_ENDPOINT_SOCKET", f"unix:{tmp_path}/never.sock")
    answer = run("attestor", "api", "watch", check=False)
    assert (answer.returncode, answer.stderr.count("\n")) == (1, 1)
    assert f"no attestor listens at {tmp_path}/never.sock" in answer.stderr
    monkeypatch.setenv("SPIFFE_ENDPOINT_SOCKET", f"tcp://127.0.0.1:{free_port()}")
    answer = run("attestor", "api", "fetch", "x509", check=False)
    assert (answer.returncode, answer.stderr.count("\n")) == (1, 1)
    assert "failed to connect" in answer.stderr


@pytest.mark.parametrize("program", ["issuer", "attestor"])
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands(program, shell):
    script = run(program, "completion", shell).stdout
    assert f"_{program.upper()}_COMPLETE" in script
    asked = {**os.environ, f"_{program.upper()}_COMPLETE": "bash_complete", "COMP_CWORD": "1"}
    command = [sys.executable, "-m", program]
    answer = subprocess.run(
        command, capture_output=True, text=True, env={**asked, "COMP_WORDS": f"{program} v"}, timeout=60
    )
    assert answer.stdout == "plain,validate\n"


def test_variables_are_expanded_where_that_is_asked_for(tmp_path, monkeypatch):
    config = tmp_path / "issuer.toml"
    config.write_text(
        """
        [issuer]
        trust_domain = "$TRUST_DOMAIN"
        data_dir = "${DATA}/issuer"
        admin_socket = "/run/issuer/private/api.sock"
        [key_manager.memory]
        """
    )
    monkeypatch.setenv("TRUST_DOMAIN", "example.org")
    validate = ["validate", "--config", str(config)]
    missing = run("issuer", *validate, "--expandEnv", check=False)
    assert missing.returncode == 2
    assert missing.stderr == f"error: {config}: issuer.data_dir: environment variable DATA is not set\n"
    monkeypatch.setenv("DATA", "/var/lib")
    assert run("issuer", *validate, "--expandEnv").stdout == f"{config}: ok\n"
    assert "invalid trust domain '$TRUST_DOMAIN'" in run("issuer", *validate, check=False).stderr


def test_a_database_of_a_newer_issuer_is_left_alone(tmp_path):
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    config = tmp_path / "issuer.toml"
    config.write_text(
        f"""
        [issuer]
        trust_domain = "example.org"
        data_dir = "{data}"
        admin_socket = "{tmp_path}/private/api.sock"
        bind_port = {free_port()}
        [key_manager.memory]
        """
    )
    with contextlib.closing(sqlite3.connect(data / "issuer.db")) as newer:
        newer.execute("PRAGMA journal_mode = WAL")
        newer.execute("CREATE TABLE alembic_version (version_num TEXT PRIMARY KEY)")
        newer.execute("INSERT INTO alembic_version VALUES ('9999')")
        newer.commit()
    before = (data / "issuer.db").read_bytes()
    ended = run("issuer", "run", "--config", str(config), check=False)
    assert ended.returncode == 1
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: database {data}/issuer.db: schema 9999 is newer than this issuer knows")
    assert "Traceback" not in ended.stderr
    assert (data / "issuer.db").read_bytes() == before


def test_a_second_issuer_on_the_same_data_does_not_start(local):
    command = [sys.executable, "-m", "issuer", "run", "--config", str(local.issuer_config)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert second.returncode == 2
    assert second.stderr == f"error: another issuer runs on {local.folder}/issuer\n"


def test_a_daemon_that_cannot_start_ends_with_one_line(local, tmp_path):
    config = tmp_path / "issuer.toml"  # another folder, the same port
    config.write_text(local.issuer_config.read_text().replace(f"{local.folder}/issuer", f"{tmp_path}/issuer"))
    command = [sys.executable, "-m", "issuer", "run", "--config", str(config)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert second.returncode == 1
    errors = [line for line in second.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "Address already in use" in errors[0]
    assert "Traceback" not in second.stderr
