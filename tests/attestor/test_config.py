# SPDX-License-Identifier: Apache-2.0
"""Every mistake in a configuration file is told at once, with file, key and rule."""

from datetime import timedelta
from pathlib import Path

import pytest

from attestor.config import MAX_SOCKET_PATH, Config
from spiffekit.daemon.config import ConfigError, load

TABLE = """
[attestor]
trust_domain = "example.org"
socket_path = "/run/attestor/public/api.sock"
data_dir = "/var/lib/attestor"
trust_bundle_path = "/etc/attestor/bundle.pem"
"""
PLUGINS = """
[node_attestor.join_token]
token = "t"
[key_manager.memory]
[workload_attestor.unix]
"""
NEITHER_NOR_BOTH = "attestor.trust_bundle_path: exactly one of it and insecure_bootstrap is needed"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "attestor.toml"


def read(path, more="", *, table=TABLE, plugins=PLUGINS, **options):
    path.write_text(f"{table}\n{more}\n{plugins}")
    return load(path, Config, **options)


def mistakes(path, *args, **options):
    """What is wrong, without the name of the file that each line begins with."""
    with pytest.raises(ConfigError) as caught:
        read(path, *args, **options)
    assert all(line.startswith(f"{path}: ") and "\n" not in line for line in caught.value.errors)
    return [line.removeprefix(f"{path}: ") for line in caught.value.errors]


def test_a_short_file_is_enough(path):
    config = read(path)
    table = config.attestor
    assert table.trust_domain == "example.org"
    assert (table.issuer_address, table.issuer_port) == ("127.0.0.1", 8081)
    assert table.trust_bundle_path == Path("/etc/attestor/bundle.pem")
    assert table.trust_bundle_format == "pem"
    assert not table.insecure_bootstrap
    assert table.rebootstrap == "auto"
    assert table.sync_interval == timedelta(seconds=5)
    assert not table.allow_unauthenticated_verifiers
    assert table.allowed_foreign_jwt_claims == ()
    assert (table.admin_socket, table.health_address) == (None, None)
    assert (table.log_level, table.log_format) == ("info", "text")
    assert config.node_attestor == {"join_token": {"token": "t"}}
    assert config.key_manager == {"memory": {}}
    assert config.workload_attestor == {"unix": {}}
    assert config.problems() == []


def test_every_option_can_be_said(path):
    config = read(
        path,
        """
        admin_socket = "/run/attestor-admin/api.sock"
        issuer_address = "issuer.example.org"
        issuer_port = 65535
        trust_bundle_format = "spiffe"
        rebootstrap = "never"
        sync_interval = "1s"
        allow_unauthenticated_verifiers = true
        allowed_foreign_jwt_claims = ["email"]
        health_address = "127.0.0.1"
        health_port = 1
        log_level = "debug"
        log_format = "json"
        """,
    )
    assert config.attestor.sync_interval == timedelta(seconds=1)
    assert config.attestor.allowed_foreign_jwt_claims == ("email",)
    assert config.attestor.rebootstrap == "never"


@pytest.mark.parametrize(
    ("line", "mistake"),
    [
        ('trust_bundel = "x"', "attestor.trust_bundel: unknown key"),
        ("insecure_bootstrap = true", NEITHER_NOR_BOTH),
        ("wit_export = true", "attestor.wit_export: goes with wit"),
        ('sync_interval = "999ms"', "attestor.sync_interval: shorter than a second"),
        ("issuer_port = 0", "attestor.issuer_port: not a port"),
        ("issuer_port = 65536", "attestor.issuer_port: not a port"),
        ("health_port = -1", "attestor.health_port: not a port"),
        ('admin_socket = "/run/attestor/public/api.sock"', "attestor.admin_socket: is already socket_path"),
        (
            'admin_socket = "/run/attestor/public/deep/admin.sock"',
            "attestor.admin_socket: below /run/attestor/public, which every user may enter",
        ),
        (
            f'admin_socket = "/{"a" * MAX_SOCKET_PATH}"',
            "attestor.admin_socket: longer than 100 bytes, the kernel allows few more",
        ),
    ],
    ids=lambda value: value.partition("=")[0][:40].strip() if isinstance(value, str) else "",
)  # fmt: skip
def test_a_mistake_is_told(path, line, mistake):
    assert mistakes(path, line) == [mistake]


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ('rebootstrap = "always"', "attestor.rebootstrap"),
        ('trust_bundle_format = "der"', "attestor.trust_bundle_format"),
        ('log_level = "loud"', "attestor.log_level"),
        ('sync_interval = "soon"', "attestor.sync_interval"),
        ("issuer_port = true", "attestor.issuer_port"),
    ],
)
def test_a_value_of_another_kind_is_told(path, line, key):
    (mistake,) = mistakes(path, line)
    assert mistake.startswith(f"{key}: ")


@pytest.mark.parametrize("name", ["trust_domain", "socket_path", "data_dir"])
def test_what_cannot_be_guessed_is_required(path, name):
    table = "\n".join(line for line in TABLE.splitlines() if not line.startswith(name))
    assert mistakes(path, table=table) == [f"attestor.{name}: is required"]


def test_a_node_without_a_bundle_says_that_it_is_insecure(path):
    table = "\n".join(line for line in TABLE.splitlines() if not line.startswith("trust_bundle_path"))
    assert mistakes(path, table=table) == [NEITHER_NOR_BOTH]
    assert read(path, "insecure_bootstrap = true", table=table).attestor.insecure_bootstrap


def test_a_trust_domain_is_one(path):
    (mistake,) = mistakes(path, table=TABLE.replace("example.org", "Example.org"))
    assert mistake.startswith("attestor.trust_domain: invalid trust domain 'Example.org'")


@pytest.mark.parametrize(
    ("plugins", "wanted"),
    [
        (
            PLUGINS
            + '[node_attestor.x509pop]\ncertificate_path = "/c"\nprivate_key_path = "/k"\n'
            + '[key_manager.disk]\ndirectory = "/d"\n',
            [
                "node_attestor: exactly one is needed, not 2",
                "key_manager: exactly one is needed, not 2",
            ],
        ),
        (
            "[node_attestor]\n[key_manager]\n[workload_attestor]\n",
            [
                "node_attestor: exactly one is needed, not 0",
                "key_manager: exactly one is needed, not 0",
                "workload_attestor: at least one is needed",
            ],
        ),
    ],
    ids=["two", "none"],
)
def test_one_node_attestor_one_key_manager_and_some_workload_attestor_are_needed(path, plugins, wanted):
    assert mistakes(path, plugins=plugins) == wanted


def test_mistakes_in_the_tables_of_plugins_are_told_with_the_others(path):
    plugins = """
        [node_attestor.join_token]
        [key_manager.memory]
        directory = "/d"
        [workload_attestor.unix]
        timeout = "soon"
        path = "/p"
        [workload_attestor.magic]
    """
    found = mistakes(path, "issuer_port = 0", plugins=plugins)
    assert [mistake.partition(": ")[0] for mistake in found] == [
        "attestor.issuer_port",
        "node_attestor.join_token.token",
        "key_manager.memory.directory",
        "workload_attestor.unix.path",
        "workload_attestor.magic",
        "workload_attestor.unix.timeout",
    ]


PLUGIN = """
[workload_attestor.fleet]
plugin_cmd = "/opt/fleet"
plugin_checksum = "{}"
""".format("0" * 64)


def test_a_workload_attestor_may_be_a_program(path):
    config = read(path, plugins=PLUGINS + PLUGIN + 'plugin_env = ["A=b=c", "D="]\nrequired = true\n')
    table = config.external()["fleet"]
    assert (table.plugin_cmd, table.plugin_checksum) == (Path("/opt/fleet"), "0" * 64)
    assert (table.plugin_args, table.plugin_data) == ((), "")
    assert table.environment() == {"A": "b=c", "D": ""}
    assert config.common_options("fleet").required
    assert config.own_options() == {"unix": {}}


@pytest.mark.parametrize(
    ("old", "new", "mistake"),
    [
        ("/opt/fleet", "fleet", "fleet.plugin_cmd: not an absolute path"),
        ("/opt/fleet", "/\\u0000", "fleet.plugin_cmd: a NUL is in it, or in plugin_args"),
        ("t]", 't]\nplugin_args = ["\\u0000"]', "fleet.plugin_cmd: a NUL is in it, or in plugin_args"),
        ("0" * 64, "F" * 64, "fleet.plugin_checksum: not a SHA-256 in lower-case hex"),
        ("0" * 64, "0" * 63, "fleet.plugin_checksum: not a SHA-256 in lower-case hex"),
        ("plugin_checksum", "checksum", "fleet.checksum: unknown key"),
        ("t]", 't]\nplugin_env = ["SECRET"]', "fleet.plugin_env: 'SECRET' is not of the form NAME=value"),
        ("t]", 't]\nplugin_env = ["=x"]', "fleet.plugin_env: '' is not of the form NAME=value"),
        ("fleet]", '"my fleet"]', "my fleet: invalid selector type 'my fleet'"),
        ("fleet]", "docker]", "docker: is the name of an attestor of ours; give the plug-in another"),
        ("fleet]", "x509pop]", "x509pop: is the name of an attestor of ours; give the plug-in another"),
    ],
)
def test_a_mistake_in_the_table_of_a_program_is_told(path, old, new, mistake):
    text = PLUGINS + PLUGIN.replace(old, new, 1)
    assert f"workload_attestor.{mistake}" in mistakes(path, plugins=text)


def test_a_table_that_is_missing_is_told(path):
    assert mistakes(path, plugins="[node_attestor.join_token]\n[workload_attestor.unix]\n") == [
        "key_manager: is required"
    ]


def test_the_workload_socket_has_a_path_that_the_kernel_takes(path):
    table = TABLE.replace("/run/attestor/public/api.sock", "/" + "a" * 99)
    assert len(bytes(read(path, table=table).attestor.socket_path)) == MAX_SOCKET_PATH
    table = TABLE.replace("/run/attestor/public/api.sock", "/" + "a" * 98 + "ä")
    assert mistakes(path, table=table) == [
        "attestor.socket_path: longer than 100 bytes, the kernel allows few more"
    ]


def test_sockets_are_compared_from_where_the_daemon_starts(path):
    table = TABLE.replace("/run/attestor/public/api.sock", "public/api.sock")
    wanted = f"attestor.admin_socket: below {Path.cwd() / 'public'}, which every user may enter"
    assert mistakes(path, f'admin_socket = "{Path.cwd() / "public" / "admin.sock"}"', table=table) == [wanted]
    assert read(path, 'admin_socket = "private/admin.sock"', table=table)


def test_all_mistakes_are_told_at_once(path):
    assert len(mistakes(path, 'insecure_bootstrap = true\nissuer_port = 0\nsync_interval = "1ms"')) == 3
