# SPDX-License-Identifier: Apache-2.0
"""How a server is reached: what is read, when, and what is refused."""

import base64
import json
import ssl
import sys

import pytest
from cryptography.hazmat.primitives import serialization

from spiffekit.daemon.kubernetes.access import MAX_FILE, Access, AccessError, in_cluster, kubeconfig
from tests.fakes.kubernetes import Authority


@pytest.fixture(scope="module")
def authority():
    return Authority()


def encoded(content):
    return base64.b64encode(content).decode()


def document(cluster=None, user=None, **more):
    return {
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [
            {"name": "c", "cluster": {"server": "https://k.example.org:6443/base/"} | (cluster or {})}
        ],
        "users": [{"name": "u", "user": user or {}}],
        **more,
    }


def written(tmp_path, content):
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(content))  # JSON is YAML
    return path


def test_a_kubeconfig_says_where_and_who(tmp_path, authority):
    certificate, key = authority.issue(("me",))
    user = {"client-certificate-data": encoded(certificate), "client-key-data": encoded(key)}
    cluster = {"certificate-authority-data": encoded(authority.pem), "tls-server-name": "kubernetes"}
    access = kubeconfig(written(tmp_path, document(cluster, user)))
    assert (access.host, access.port, access.prefix) == ("k.example.org", 6443, "/base")
    peer = access.peer()
    assert peer.server_name == "kubernetes"
    assert peer.tls.verify_mode is ssl.CERT_REQUIRED
    assert peer.tls.check_hostname
    assert access.headers() == {}


def test_yaml_is_read(tmp_path):
    path = tmp_path / "kubeconfig"
    path.write_text(
        "current-context: a\n"
        "contexts: [{name: a, context: {cluster: c, user: u}}]\n"
        "clusters: [{name: c, cluster: {server: 'https://10.0.0.1'}}]\n"
        "users: [{name: u, user: {token: abc}}]\n"
    )
    access = kubeconfig(path)
    assert (access.host, access.port) == ("10.0.0.1", 443)
    assert access.headers() == {"authorization": "Bearer abc"}


def test_files_are_beside_the_kubeconfig_and_read_each_time(tmp_path, authority):
    (tmp_path / "ca.crt").write_bytes(authority.pem)
    content = document({"certificate-authority": "ca.crt"}, {"tokenFile": "token"})
    access = kubeconfig(written(tmp_path, content))
    for token in ("first", "second"):
        (tmp_path / "token").write_text(token + "\n")
        assert access.headers() == {"authorization": f"Bearer {token}"}
    assert access.peer().tls.cert_store_stats()["x509_ca"] == 1


def test_another_context_may_be_chosen(tmp_path):
    content = document()
    content["contexts"].append({"name": "there", "context": {"cluster": "d"}})
    content["clusters"].append({"name": "d", "cluster": {"server": "https://there"}})
    assert kubeconfig(written(tmp_path, content), "there").host == "there"


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (document({"insecure-skip-tls-verify": True}), "insecure-skip-tls-verify is refused"),
        (document({"server": "http://k.example.org"}), "has to be an https URL"),
        (document({"server": "https://"}), "has to be an https URL"),
        (document({"proxy-url": "http://p"}), "not supported"),
        (document(user={"exec": {"command": "/bin/sh"}}), "not supported"),
        (document(user={"auth-provider": {"name": "gcp"}}), "not supported"),
        (document({"certificate-authority-data": "%"}), "not base64"),
        (document(**{"current-context": "none"}), "has no context 'none'"),
        ({}, "has no context ''"),
        ([], "not a kubeconfig"),
        ({"clusters": [{"name": 7}]}, "not a kubeconfig"),
    ],
)
def test_what_we_do_not_do_is_refused(tmp_path, content, rule):
    with pytest.raises(AccessError, match=rule):
        kubeconfig(written(tmp_path, content))


def test_a_kubeconfig_that_cannot_be_read_is_told(tmp_path):
    with pytest.raises(AccessError, match="No such file"):
        kubeconfig(tmp_path / "none")
    path = tmp_path / "large"
    path.write_bytes(b"#" * (MAX_FILE + 1))
    with pytest.raises(AccessError, match="larger than"):
        kubeconfig(path)
    path.write_bytes(b"a: [b")
    with pytest.raises(AccessError, match="not a kubeconfig"):
        kubeconfig(path)


def test_a_pod_finds_its_api_server(tmp_path, authority):
    (tmp_path / "ca.crt").write_bytes(authority.pem)
    (tmp_path / "token").write_text("abc")
    environ = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    access = in_cluster(environ, tmp_path)
    assert (access.host, access.port) == ("10.96.0.1", 443)
    assert access.headers() == {"authorization": "Bearer abc"}
    assert access.peer().tls.cert_store_stats()["x509_ca"] == 1


@pytest.mark.parametrize("environ", [{}, {"KUBERNETES_SERVICE_HOST": "h", "KUBERNETES_SERVICE_PORT": "x"}])
def test_outside_of_a_pod_there_is_none(environ, tmp_path):
    with pytest.raises(AccessError, match="not in a pod"):
        in_cluster(environ, tmp_path)


def test_what_cannot_be_used_is_told(tmp_path, authority):
    bad = tmp_path / "bad"
    bad.write_bytes(b"\xff")
    for access in (
        Access("h", 1, ca=bad),
        Access("h", 1, ca=b"nonsense"),
        Access("h", 1, ca=tmp_path / "none"),
        Access("h", 1, ca=authority.pem, certificate=authority.pem),
    ):
        with pytest.raises(AccessError):
            access.peer()
    with pytest.raises(AccessError, match="not ASCII"):
        Access("h", 1, token=bad).headers()


def test_without_a_root_of_its_own_the_machines_are_trusted(tmp_path, authority, monkeypatch):
    (tmp_path / "roots.pem").write_bytes(authority.pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "roots.pem"))
    context = Access("h", 1).peer().tls
    assert context.cert_store_stats()["x509_ca"] == 1
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


def test_verification_and_tls_are_left_out_only_where_it_is_said():
    unverified = Access("h", 1, unverified=True).peer().tls
    assert unverified.verify_mode is ssl.CERT_NONE
    assert Access("h", 1, plain=True).peer().tls is None


def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked_for_it(authority):
    certificate, key = authority.issue(("me",))
    locked = serialization.load_pem_private_key(key, None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    with pytest.raises(AccessError, match="certificate for h cannot be used"):
        Access("h", 1, ca=authority.pem, certificate=certificate, key=locked).peer()


def test_without_the_extra_a_kubeconfig_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)  # as if it were not installed
    with pytest.raises(AccessError, match=r"needs the extra \[kubernetes\]"):
        kubeconfig(written(tmp_path, document()))


def test_secrets_are_not_shown(authority):
    certificate, key = authority.issue(("me",))
    shown = repr(Access("h", 1, certificate=certificate, key=key, token=b"secret-token"))
    assert "secret-token" not in shown
    assert "PRIVATE" not in shown
