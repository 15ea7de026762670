# SPDX-License-Identifier: Apache-2.0
"""Every mistake in a configuration file is told at once, with file, key and rule."""

from datetime import timedelta
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from issuer.config import Config
from spiffekit.daemon.config import ConfigError, load
from spiffekit.id import SpiffeId
from spiffekit.keys import KeyType
from spiffekit.transparency.notes import KeyUse
from tests.spiffekit.transparency.logs import signer

INSTALLED = ", ".join(sorted(point.name for point in entry_points(group="issuer.node")))

MINIMAL = """
[issuer]
trust_domain = "example.org"
data_dir = "/var/lib/issuer"
admin_socket = "/run/issuer/admin.sock"

[key_manager.memory]
"""


LETTERS = "use only a-z, 0-9, '.', '-' and '_'"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "issuer.toml"


def read(path, text, **options):
    path.write_text(text)
    return load(path, Config, **options)


def mistakes(path, text, **options):
    """Return what is wrong, without the name of the file that each line begins with."""
    with pytest.raises(ConfigError) as caught:
        read(path, text, **options)
    assert all(line.startswith(f"{path}: ") and "\n" not in line for line in caught.value.errors)
    return [line.removeprefix(f"{path}: ") for line in caught.value.errors]


def with_options(*lines):
    return MINIMAL.replace("[issuer]", "[issuer]\n" + "\n".join(lines))


def test_little_has_to_be_said(path):
    config = read(path, MINIMAL)
    table = config.issuer
    assert table.trust_domain == "example.org"
    assert (table.data_dir, table.admin_socket) == (Path("/var/lib/issuer"), Path("/run/issuer/admin.sock"))
    assert (table.bind_address, table.bind_port) == ("127.0.0.1", 8081)
    assert (table.ca_ttl, table.default_x509_svid_ttl, table.default_jwt_svid_ttl) == (
        timedelta(hours=24),
        timedelta(hours=1),
        timedelta(minutes=5),
    )
    assert table.ca_key_type is KeyType.EC_P256
    unset = (table.node_svid_ttl, table.jwt_key_type, table.prune_nodes_expired_for, table.health_address)
    assert unset == (None,) * 4
    assert config.key_manager == {"memory": {}}
    assert config.node_attestor == {}


def test_everything_can_be_said(path, tmp_path):
    (tmp_path / "passphrase").write_text("secret\n")
    config = read(
        path,
        f"""
        [issuer]
        trust_domain = "example.org"
        data_dir = "data"
        admin_socket = "admin.sock"
        bind_address = "::"
        bind_port = 443
        ca_ttl = "1h30m"
        default_x509_svid_ttl = "90s"
        default_jwt_svid_ttl = "1m"
        node_svid_ttl = "1d"
        ca_key_type = "rsa-4096"
        jwt_key_type = "ec-p384"
        jwt_issuer = "https://issuer.example.org"
        admin_ids = ["spiffe://example.org/admin"]
        prune_nodes_expired_for = "30d"
        attestations_per_second = 0.5
        signatures_per_second = 100
        health_address = "0.0.0.0"
        health_port = 9090
        log_level = "debug"
        log_format = "json"
        [key_manager.disk]
        directory = "keys"
        passphrase_file = "{tmp_path / "passphrase"}"
        [node_attestor.join_token]
        """,
    )
    assert config.issuer.ca_ttl == timedelta(minutes=90)
    assert config.issuer.jwt_key_type is KeyType.EC_P384
    assert config.issuer.attestations_per_second == 0.5
    assert config.node_attestor == {"join_token": {}}


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ('bind_adress = "::1"', "issuer.bind_adress: unknown key"),
        ('bind_address = "localhost"', "issuer.bind_address: 'localhost' is not an IP address"),
        ('bind_address = "127.0.0.1:80"', "issuer.bind_address: '127.0.0.1:80' is not an IP address"),
        ('health_address = ""', "issuer.health_address: '' is not an IP address"),
        ("bind_port = 65536", "issuer.bind_port: not a port"),
        ("bind_port = -1", "issuer.bind_port: not a port"),
        ('bind_port = "80"', "issuer.bind_port: Expected `int`, got `str`"),
        ("bind_port = true", "issuer.bind_port: Expected `int`, got `bool`"),
        ("health_port = 70000", "issuer.health_port: not a port"),
        ('ca_ttl = "24"', "issuer.ca_ttl: '24' is not a time span such as 30s, 5m or 1h30m"),
        ('ca_ttl = ""', "issuer.ca_ttl: '' is not a time span such as 30s, 5m or 1h30m"),
        ('ca_ttl = "-1h"', "issuer.ca_ttl: '-1h' is not a time span such as 30s, 5m or 1h30m"),
        ('ca_ttl = "1h "', "issuer.ca_ttl: '1h ' is not a time span such as 30s, 5m or 1h30m"),
        ('ca_ttl = "1 h"', "issuer.ca_ttl: '1 h' is not a time span such as 30s, 5m or 1h30m"),
        ('ca_ttl = "999ms"', "issuer.ca_ttl: shorter than a second"),
        ('ca_ttl = "36526d"', "issuer.ca_ttl: longer than 100 years"),
        (
            'ca_ttl = "99999999999999999999d"',
            "issuer.ca_ttl: '99999999999999999999d' is too long a time span",
        ),
        ("ca_ttl = 86400", "issuer.ca_ttl: expected a string, got int"),
        ('default_x509_svid_ttl = "0s"', "issuer.default_x509_svid_ttl: shorter than a second"),
        ('default_jwt_svid_ttl = "0s"', "issuer.default_jwt_svid_ttl: shorter than a second"),
        ('default_wit_svid_ttl = "0s"', "issuer.default_wit_svid_ttl: shorter than a second"),
        ('default_wit_svid_ttl = "25h"', "issuer.default_wit_svid_ttl: longer than a day"),
        ('node_svid_ttl = "0s"', "issuer.node_svid_ttl: shorter than a second"),
        ('prune_nodes_expired_for = "40000d"', "issuer.prune_nodes_expired_for: longer than 100 years"),
        ("attestations_per_second = 0", "issuer.attestations_per_second: has to be a positive number"),
        ("attestations_per_second = nan", "issuer.attestations_per_second: has to be a positive number"),
        ("signatures_per_second = inf", "issuer.signatures_per_second: has to be a positive number"),
        ("signatures_per_second = -1.5", "issuer.signatures_per_second: has to be a positive number"),
        ('ca_key_type = "ec-p192"', "issuer.ca_key_type: Invalid enum value 'ec-p192'"),
        ('jwt_key_type = "ed25519"', "issuer.jwt_key_type: Invalid enum value 'ed25519'"),
        (
            'admin_ids = ["example.org/admin"]',
            "issuer.admin_ids: scheme of 'example.org/admin' is not 'spiffe'",
        ),
        ('admin_ids = "spiffe://example.org/a"', "issuer.admin_ids: Expected `array`, got `str`"),
        ('log_level = "verbose"', "issuer.log_level: Invalid enum value 'verbose'"),
        ('log_format = "xml"', "issuer.log_format: Invalid enum value 'xml'"),
    ],
)
def test_a_mistake_is_told_with_its_key_and_rule(path, line, rule):
    assert mistakes(path, with_options(line)) == [rule]


@pytest.mark.requirement("ID-08")
@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("", "issuer.trust_domain: trust domain is missing"),
        (
            "Example.org",
            f"issuer.trust_domain: invalid trust domain 'Example.org': {LETTERS}",
        ),
        (
            "spiffe://example.org",
            f"issuer.trust_domain: invalid trust domain 'spiffe://example.org': {LETTERS}",
        ),
        ("a" * 256, "issuer.trust_domain: trust domain is longer than 255 bytes"),
    ],
)
def test_a_trust_domain_that_is_none_is_refused(path, name, rule):
    assert mistakes(path, MINIMAL.replace("example.org", name)) == [rule]


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ('data_dir = "/var/lib/issuer"', "issuer.data_dir: is required"),
        ('trust_domain = "example.org"', "issuer.trust_domain: is required"),
        ('admin_socket = "/run/issuer/admin.sock"', "issuer.admin_socket: is required"),
        ("[key_manager.memory]", "key_manager: is required"),
    ],
)
def test_what_has_to_be_said_is_asked_for(path, line, rule):
    assert mistakes(path, MINIMAL.replace(line, "")) == [rule]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("[key_manager]", "key_manager: exactly one is needed, not 0"),
        (
            '[key_manager.memory]\n[key_manager.disk]\ndirectory = "k"',
            "key_manager: exactly one is needed, not 2",
        ),
        ("[key_manager.vault]", "key_manager.vault: no such plug-in; installed are: disk, memory"),
        ("[key_manager.memory]\nsize = 5", "key_manager.memory.size: unknown key"),
        ("[key_manager.disk]", "key_manager.disk.directory: is required"),
        ("[key_manager.disk]\ndirectory = 7", "key_manager.disk.directory: expected a string, got int"),
        ('[key_manager.disk]\ndirectory = ""', "key_manager.disk.directory: a path cannot be empty"),
        (
            '[key_manager.disk]\ndirectory = "k"\npassphrase_file = "/nonexistent"',
            "key_manager.disk.passphrase_file: /nonexistent: No such file or directory",
        ),
        (
            "[key_manager.memory]\n[node_attestor.tpm]",
            f"node_attestor.tpm: no such plug-in; installed are: {INSTALLED}",
        ),
        (
            "[key_manager.memory]\n[node_attestor.join_token]\nttl = 5",
            "node_attestor.join_token.ttl: unknown key",
        ),
        (
            "[key_manager.memory]\n[node_attestor.x509pop]",
            "node_attestor.x509pop.ca_bundle_path: is required",
        ),
        (
            '[key_manager.memory]\n[node_attestor.x509pop]\nca_bundle_path = "/nonexistent"',
            "node_attestor.x509pop.ca_bundle_path: /nonexistent: No such file or directory",
        ),
        ("[key_manager.memory]\n[node_atestor.join_token]", "node_atestor: unknown key"),
    ],
)
def test_plugins_are_looked_at_before_anything_runs(path, text, rule):
    assert mistakes(path, MINIMAL.replace("[key_manager.memory]", text)) == [rule]


@pytest.mark.parametrize(
    ("bind", "health", "overlap"),
    [
        (("127.0.0.1", 8080), ("127.0.0.1", 8080), True),
        (("0.0.0.0", 8080), ("127.0.0.1", 8080), True),
        (("127.0.0.1", 8080), ("::", 8080), True),
        (("127.0.0.1", 8080), ("127.0.0.1", 8081), False),
        (("127.0.0.1", 8080), ("127.0.0.2", 8080), False),
        (("127.0.0.1", 0), ("127.0.0.1", 0), False),
    ],
)
def test_two_listeners_cannot_have_one_port(path, bind, health, overlap):
    text = with_options(
        f'bind_address = "{bind[0]}"',
        f"bind_port = {bind[1]}",
        f'health_address = "{health[0]}"',
        f"health_port = {health[1]}",
    )
    if overlap:
        assert mistakes(path, text) == ["issuer.health_port: is already the port of bind_port"]
    else:
        read(path, text)


def test_a_socket_path_that_the_kernel_would_cut_is_refused(path):
    text = MINIMAL.replace("/run/issuer/admin.sock", "/" + "x" * 100)
    assert mistakes(path, text) == [
        "issuer.admin_socket: longer than 100 bytes, the kernel allows 107 for a socket"
    ]
    read(path, MINIMAL.replace("/run/issuer/admin.sock", "/" + "x" * 99))


def test_every_mistake_is_told_at_once(path):
    found = mistakes(
        path,
        """
        [issuer]
        trust_domain = 5
        bind_port = "x"
        bogus = 1
        ca_ttl = "soon"
        ca_key_type = "dsa"
        [key_manager.memory]
        [node_attestor]
        """,
    )
    assert sorted(found) == [
        "issuer.admin_socket: is required",
        "issuer.bind_port: Expected `int`, got `str`",
        "issuer.bogus: unknown key",
        "issuer.ca_key_type: Invalid enum value 'dsa'",
        "issuer.ca_ttl: 'soon' is not a time span such as 30s, 5m or 1h30m",
        "issuer.data_dir: is required",
        "issuer.trust_domain: Expected `str`, got `int`",
    ]


def test_every_broken_rule_is_told_at_once(path):
    found = mistakes(
        path,
        """
        [issuer]
        trust_domain = "EXAMPLE"
        data_dir = "d"
        admin_socket = "s"
        bind_port = 65536
        ca_ttl = "1ms"
        admin_ids = ["spiffe://a//b", "x"]
        [key_manager.vault]
        [node_attestor.tpm]
        """,
    )
    assert [line.split(": ")[0] for line in found] == [
        "issuer.trust_domain",
        "issuer.admin_ids",
        "issuer.admin_ids",
        "issuer.ca_ttl",
        "issuer.bind_port",
        "key_manager.vault",
        "node_attestor.tpm",
    ]


def test_variables_are_replaced_when_that_is_wanted(path, monkeypatch):
    monkeypatch.setenv("TEST_TRUST_DOMAIN", "from.env")
    text = MINIMAL.replace("example.org", "${TEST_TRUST_DOMAIN}")
    assert read(path, text, expand_env=True).issuer.trust_domain == "from.env"
    assert mistakes(path, text)[0].startswith(
        "issuer.trust_domain: invalid trust domain '${TEST_TRUST_DOMAIN}'"
    )
    monkeypatch.delenv("TEST_TRUST_DOMAIN")
    unset = "issuer.trust_domain: environment variable TEST_TRUST_DOMAIN is not set"
    assert unset in mistakes(path, text, expand_env=True)


@pytest.mark.parametrize("number", ["0", "-1.5", "inf", "nan"])
def test_reports_have_a_positive_rate(path, number):
    rule = "audit.reports_per_second: has to be a positive number"
    assert mistakes(path, f"{MINIMAL}\n[audit]\nreports_per_second = {number}\n") == [rule]


@pytest.mark.parametrize("origin", ["a b", "a+b", "x" * 256])
def test_a_log_has_a_name_that_checkpoints_can_have(path, origin):
    assert mistakes(path, f'{MINIMAL}\n[audit]\norigin = "{origin}"\n')[0].startswith(
        "audit.origin: key name"
    )
    assert read(path, f'{MINIMAL}\n[audit]\norigin = "example.org/audit/2"\n').audit.origin.endswith("/2")


@pytest.mark.parametrize(
    ("tables", "rule"),
    [
        ('[agents]\npeople = "people.json"', "agents.people_issuer: goes with agents.people"),
        (
            '[agents]\npeople_issuer = "https://idp.example.org"',
            "agents.people_issuer: goes with agents.people",
        ),
        (
            '[status_endpoint]\naddress = "localhost"',
            "status_endpoint.address: 'localhost' is not an IP address",
        ),
        ('[status_endpoint]\naddress = "::1"\nport = 70000', "status_endpoint.port: not a port"),
    ],
)
def test_tables_besides_that_make_no_sense_are_refused(path, tables, rule):
    assert mistakes(path, f"{MINIMAL}\n{tables}") == [rule]


POLICY_ENDPOINT = {
    "address": '"127.0.0.1"',
    "authzen_port": "8444",
    "gateways": '["spiffe://example.org/gateway"]',
    "url": '"https://policy.example.org:8444"',
}


def with_policy_endpoint(**changes):
    lines = (f"{name} = {value}" for name, value in (POLICY_ENDPOINT | changes).items() if value is not None)
    return "\n".join(
        [with_options('admin_ids = ["spiffe://example.org/admin"]'), "[policy_endpoint]", *lines]
    )


def test_gateways_may_ask_where_they_are_told(path):
    table = read(path, with_policy_endpoint()).policy_endpoint
    assert table.gateway_ids == {SpiffeId.parse("spiffe://example.org/gateway")}
    table = read(path, with_policy_endpoint(ext_authz_port=8445)).policy_endpoint
    assert (table.authzen_port, table.ext_authz_port) == (8444, 8445)
    assert (table.decisions_per_second, table.agent_decisions_per_second) == (500.0, 50.0)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"address": '"localhost"'}, "address: 'localhost' is not an IP address"),
        ({"authzen_port": None}, "ext_authz_port: either is needed, and not the same for both"),
        ({"ext_authz_port": "8444"}, "ext_authz_port: either is needed, and not the same for both"),
        ({"authzen_port": "65536"}, "authzen_port: not a port"),
        ({"ext_authz_port": "-1"}, "ext_authz_port: not a port"),
        ({"gateways": None}, "gateways: names nobody, so that nobody could ask"),
        ({"gateways": '["https://x"]'}, "gateways: scheme of 'https://x' is not 'spiffe'"),
        (
            {"gateways": '["spiffe://example.org/admin"]'},
            "gateways: spiffe://example.org/admin is among issuer.admin_ids, and cannot be both",
        ),
        ({"url": '"http://x"'}, "url: 'http://x' is not https://HOST[:PORT]"),
        ({"url": '"https://x/y"'}, "url: 'https://x/y' is not https://HOST[:PORT]"),
        ({"url": '"https://x?y"'}, "url: 'https://x?y' is not https://HOST[:PORT]"),
        ({"decisions_per_second": "0"}, "decisions_per_second: has to be a positive number"),
        ({"agent_decisions_per_second": "inf"}, "agent_decisions_per_second: has to be a positive number"),
    ],
)
def test_a_policy_endpoint_that_makes_no_sense_is_refused(path, changes, rule):
    assert mistakes(path, with_policy_endpoint(**changes)) == [f"policy_endpoint.{rule}"]


WITNESS = signer("witness.example", KeyUse.COSIGNATURE).key


@pytest.mark.parametrize(
    ("url", "key", "problem"),
    [
        (
            "ftp://w.example",
            WITNESS,
            "audit.witness.w.url: 'ftp://w.example' is not http(s)://HOST[:PORT][/PATH]",
        ),
        ("https://", WITNESS, "audit.witness.w.url: 'https://' is not http(s)://HOST[:PORT][/PATH]"),
        ("http://w.example:port", WITNESS, "audit.witness.w.url: Port could not be cast to integer value"),
        ("http://w.example", "none", "audit.witness.w.key: verifier key: key ID '' is not 8"),
        ("http://w.example", signer("log").key, "audit.witness.w.key: is that of a log, not of a witness"),
    ],
)
def test_a_witness_has_an_address_and_a_key_of_its_own(path, url, key, problem):
    text = f'{MINIMAL}\n[audit.witness.w]\nurl = "{url}"\nkey = "{key}"\n'
    assert mistakes(path, text)[0].startswith(problem)
    good = f'{MINIMAL}\n[audit.witness.w]\nurl = "https://w.example/logs"\nkey = "{WITNESS}"\n'
    assert read(path, good).audit.witness["w"].key == str(WITNESS)
