# SPDX-License-Identifier: Apache-2.0
"""Units, images and manifests are held to the daemons: to their options, sockets, rights and needs."""

import configparser
import copy
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from attestor.config import Config as AttestorConfig
from issuer.config import Config as IssuerConfig
from spiffekit.daemon.config import load

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
IMAGES = sorted((DEPLOY / "docker").glob("*.Dockerfile"))
MANIFESTS = sorted(path for path in (DEPLOY / "kubernetes").glob("*.yaml"))
MOST_EXPOSED = {"issuer.service": 2.0, "attestor.service": 6.0}  # of 10, as systemd-analyze counts


def named(path):
    return path.name


@pytest.fixture(scope="module")
def objects():
    """Every object of the manifests, by kind and name."""
    found = [
        document
        for path in MANIFESTS
        if path.name != "kustomization.yaml"
        for document in yaml.safe_load_all(path.read_text())
    ]
    assert len({(o["kind"], o["metadata"]["name"]) for o in found}) == len(found)
    return {(o["kind"], o["metadata"]["name"]): o for o in found}


@pytest.mark.parametrize("path", UNITS, ids=named)
def test_a_unit_runs_a_command_that_exists_and_tells_systemd(path):
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str
    unit.read_string(path.read_text())
    program, verb, option, config = unit["Service"]["ExecStart"].split()
    assert (Path(program).name, verb, option) == (path.stem, "run", "--config")
    assert config == f"/etc/{path.stem}/{path.stem}.toml"
    assert unit["Service"]["Type"] == "notify"
    assert unit["Service"]["RestartPreventExitStatus"] == "2"
    assert unit["Service"]["LimitCORE"] == "0"  # keys do not go into core dumps


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("path", UNITS, ids=named)
def test_systemd_finds_nothing_wrong_with_a_unit(path, tmp_path):
    copy = tmp_path / path.name
    copy.write_text(re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", path.read_text()))
    verdict = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True)
    assert (verdict.returncode, verdict.stderr) == (0, "")
    exposure = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(path)],
        capture_output=True,
        text=True,
    )
    (level,) = re.findall(r"exposure level for \S+: ([0-9.]+)", exposure.stdout)
    assert float(level) <= MOST_EXPOSED[path.name]


@pytest.mark.parametrize("path", IMAGES, ids=named)
def test_an_image_installs_locked_packages_and_runs_the_daemon(path):
    text = path.read_text()
    name = path.stem
    assert "--require-hashes -r /src/deploy/docker/build.lock" in text
    assert len(re.findall(r"(?m)^FROM \$BASE", text)) == len(re.findall(r"(?m)^FROM", text)) == 2
    assert f"--require-hashes -r /src/deploy/docker/{name}.lock" in text
    assert re.search(rf'^ENTRYPOINT \["/opt/{name}/bin/{name}"\]$', text, re.MULTILINE)
    assert re.search(rf'^CMD \["run", "--config", "/etc/{name}/{name}.toml"\]$', text, re.MULTILINE)
    assert name in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert ("USER 10001:10001" in text) == (name == "issuer")


def pinned(path):
    return dict(re.findall(r"(?m)^([a-z0-9._-]+)(?:\[[a-z,]+\])?==(\S+)", path.read_text()))


@pytest.mark.parametrize("name", ["build", "issuer", "attestor", "attestor-signatures"])
def test_an_image_has_what_was_tested_and_no_more(name):
    tested, shipped = pinned(ROOT / "requirements.lock"), pinned(DEPLOY / "docker" / f"{name}.lock")
    assert {package: version for package, version in shipped.items() if tested.get(package) != version} == {}
    assert {"pytest", "mypy", "ruff"}.isdisjoint(shipped)
    assert ("sqlalchemy" in shipped) == (name == "issuer")
    assert ("sigstore" in shipped) == (name == "attestor-signatures")


@pytest.mark.parametrize("version", ["1.28", "1.37"])
def test_kubernetes_knows_every_field_of_a_manifest(objects, version):
    for document in objects.values():
        assert kubernetes_validate.validate(document, version, strict=True) == version


def test_a_field_that_kubernetes_does_not_know_is_found(objects):
    document = copy.deepcopy(objects["DaemonSet", "attestor"])
    document["spec"]["template"]["spec"]["containers"][0]["securityContext"]["privilaged"] = False
    with pytest.raises(kubernetes_validate.ValidationError, match="privilaged"):
        kubernetes_validate.validate(document, "1.37", strict=True)


@pytest.mark.parametrize(
    ("name", "kind"), [("issuer", IssuerConfig), ("attestor", AttestorConfig)], ids=["issuer", "attestor"]
)
def test_a_configuration_in_the_cluster_is_one(objects, name, kind, tmp_path, monkeypatch):
    monkeypatch.setenv("NODE_NAME", "n1")
    # Where a pod finds its rights; only there does the issuer look for the API server.
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    path = tmp_path / f"{name}.toml"
    path.write_text(objects["ConfigMap", name]["data"][f"{name}.toml"])
    assert load(path, kind, expand_env=True)


def pod_of(objects, kind, name):
    return objects[kind, name]["spec"]["template"]["spec"]


def test_the_issuer_is_nobody(objects):
    pod = pod_of(objects, "StatefulSet", "issuer")
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert not container["securityContext"]["allowPrivilegeEscalation"]
    assert objects["StatefulSet", "issuer"]["spec"]["replicas"] == 1  # its database has one writer


def test_the_attestor_sees_the_processes_of_its_node(objects):
    pod = pod_of(objects, "DaemonSet", "attestor")
    assert pod["hostPID"]
    assert pod["containers"][0]["securityContext"]["capabilities"]["drop"] == ["ALL"]


@pytest.mark.parametrize(("kind", "name"), [("StatefulSet", "issuer"), ("DaemonSet", "attestor")])
def test_every_folder_that_a_configuration_names_is_mounted(objects, kind, name):
    (container,) = pod_of(objects, kind, name)["containers"]
    mounts = {Path(mount["mountPath"]): mount.get("readOnly", False) for mount in container["volumeMounts"]}
    config = tomllib.loads(objects["ConfigMap", name]["data"][f"{name}.toml"])
    for key in ("data_dir", "admin_socket", "socket_path"):
        if key in config[name]:
            path = Path(config[name][key])
            holders = [mount for mount in mounts if path == mount or mount in path.parents]
            assert holders, f"{key} {path} is not mounted"
            assert not any(mounts[mount] for mount in holders), f"{key} {path} cannot be written"


@pytest.mark.parametrize(("kind", "name"), [("StatefulSet", "issuer"), ("DaemonSet", "attestor")])
def test_folders_that_nobody_else_may_enter_are_made_below_a_volume(objects, kind, name):
    """A volume's own folder is root's, or its group's: a daemon that keeps keys in it does not start."""
    (container,) = pod_of(objects, kind, name)["containers"]
    mounts = {Path(mount["mountPath"]) for mount in container["volumeMounts"]}
    config = tomllib.loads(objects["ConfigMap", name]["data"][f"{name}.toml"])
    private = {Path(config[name]["data_dir"]), Path(config[name]["admin_socket"]).parent}
    private |= {Path(table["directory"]) for table in config["key_manager"].values() if table}
    assert not private & mounts


def test_a_restart_does_not_open_the_folders_of_keys_to_the_group(objects):
    context = pod_of(objects, "StatefulSet", "issuer")["securityContext"]
    assert context["fsGroup"] == context["runAsGroup"]
    assert context["fsGroupChangePolicy"] == "OnRootMismatch"


def test_tokens_are_for_the_audience_that_the_issuer_wants_and_of_the_account_that_it_allows(objects):
    config = tomllib.loads(objects["ConfigMap", "issuer"]["data"]["issuer.toml"])
    cluster = config["node_attestor"]["k8s_psat"]["clusters"]["cluster"]
    pod = pod_of(objects, "DaemonSet", "attestor")
    namespace = objects["DaemonSet", "attestor"]["metadata"]["namespace"]
    assert cluster["service_account_allow_list"] == [f"{namespace}:{pod['serviceAccountName']}"]
    (token,) = [volume for volume in pod["volumes"] if volume["name"] == "token"]
    assert token["projected"]["sources"][0]["serviceAccountToken"]["audience"] in cluster["audience"]
    node = tomllib.loads(objects["ConfigMap", "attestor"]["data"]["attestor.toml"])["node_attestor"][
        "k8s_psat"
    ]
    assert Path(node["token_path"]).name == token["projected"]["sources"][0]["serviceAccountToken"]["path"]
    assert node["cluster"] in config["kubernetes"]


@pytest.mark.parametrize(
    ("name", "rights"),
    [
        (
            "issuer",
            {
                ("tokenreviews", "create"),
                ("pods", "get"),
                ("pods", "list"),
                ("pods", "watch"),
                ("nodes", "get"),
            },
        ),
        ("attestor", {("pods", "list"), ("pods", "watch")}),
    ],
    ids=["issuer", "attestor"],
)
def test_a_daemon_has_the_rights_that_it_needs_and_no_other(objects, name, rights):
    given = {
        (resource, verb)
        for rule in objects["ClusterRole", f"spiffe-{name}"]["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert given == rights
    (subject,) = objects["ClusterRoleBinding", f"spiffe-{name}"]["subjects"]
    assert (subject["name"], subject["namespace"]) == (name, "spiffe")
    assert ("ServiceAccount", name) in objects


def test_workloads_get_the_socket_and_cannot_replace_it(objects):
    spec = objects["Pod", "example"]["spec"]
    (mount,) = spec["containers"][0]["volumeMounts"]
    assert mount["readOnly"]
    config = tomllib.loads(objects["ConfigMap", "attestor"]["data"]["attestor.toml"])["attestor"]
    assert str(Path(config["socket_path"]).parent) == mount["mountPath"]
    assert spec["volumes"][0]["hostPath"]["path"] == mount["mountPath"]
    assert not Path(config["admin_socket"]).is_relative_to(mount["mountPath"])


def test_one_command_applies_everything_but_the_example(objects):
    listed = yaml.safe_load((DEPLOY / "kubernetes" / "kustomization.yaml").read_text())["resources"]
    assert sorted(listed) == ["attestor.yaml", "issuer.yaml"]
