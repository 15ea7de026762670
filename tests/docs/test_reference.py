# SPDX-License-Identifier: Apache-2.0
"""Every plug-in has its page; the samples can be loaded; what is generated says what the code says."""

import importlib.util
import tomllib
from datetime import timedelta
from importlib.metadata import entry_points
from pathlib import Path
from typing import get_type_hints

import msgspec
import pytest

from attestor.config import Config as AttestorConfig
from attestor.config import ExternalAttestorTable, WorkloadAttestorOptions
from issuer.config import AgentsTable, AuditTable, KubernetesTable, PolicyEndpointTable, StatusEndpointTable
from issuer.config import Config as IssuerConfig
from spiffekit.daemon.config import decode, load
from tests.docs.pages import PAGES, ROOT, fences, links, name

REFERENCE = ROOT / "docs" / "reference"
KINDS = {
    "attestor.node": "node",
    "attestor.workload": "workload",
    "attestor.keys": "keys",
    "issuer.node": "node",
    "issuer.keys": "keys",
}
TABLES = {"node": "node_attestor", "workload": "workload_attestor", "keys": "key_manager"}
PLUGINS = sorted(point for group in KINDS for point in entry_points(group=group))
SHARED = {field.name for field in msgspec.structs.fields(WorkloadAttestorOptions)}
FILES = {"issuer": IssuerConfig, "attestor": AttestorConfig}


@pytest.fixture(scope="module")
def fill():
    spec = importlib.util.spec_from_file_location("fill", ROOT / "docs" / "fill.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def page_of(point):
    """The page of a plug-in: its own, or the one of its kind."""
    kind = KINDS[point.group]
    own = REFERENCE / f"{kind}-{point.name}.md"
    return own if own.exists() else REFERENCE / f"{kind}.md"


def config_of(point):
    (kind,) = [hint for key, hint in get_type_hints(point.load()).items() if key != "return"]
    return kind


def test_there_are_plugins_of_every_kind():
    assert {point.group for point in PLUGINS} == set(KINDS)


@pytest.mark.parametrize("point", PLUGINS, ids=lambda p: f"{p.group}-{p.name}")
def test_a_plugin_has_a_page_with_its_options(point):
    text = page_of(point).read_text()
    assert f"<!-- options: {point.module}:{config_of(point).__name__} -->" in text


@pytest.mark.parametrize("point", PLUGINS, ids=lambda p: f"{p.group}-{p.name}")
def test_a_plugins_page_has_its_parts(point):
    headings = [line.lower() for line in page_of(point).read_text().splitlines() if line.startswith("## ")]
    wanted = ["options", "security", "sample"]
    if KINDS[point.group] != "keys":
        wanted.insert(1, "selectors")
    for part in wanted:
        assert any(part in heading for heading in headings), part


@pytest.mark.parametrize("point", PLUGINS, ids=lambda p: f"{p.group}-{p.name}")
def test_a_plugin_is_linked_from_the_page_of_its_daemon(point):
    program = point.group.partition(".")[0]
    assert page_of(point).name in links((REFERENCE / f"{program}.md").read_text())


def samples():
    for page in PAGES:
        for number, block in enumerate(fences(page.read_text(), "toml")):
            yield pytest.param(block, id=f"{name(page)}-{number}")


@pytest.mark.parametrize("sample", list(samples()))
def test_a_sample_can_be_loaded(sample):
    document = tomllib.loads(sample)
    tables = {(TABLES[KINDS[p.group]], p.name): [] for p in PLUGINS}
    tables |= {("kubernetes", name): [KubernetesTable] for name in document.get("kubernetes", ())}
    for point in PLUGINS:
        tables[TABLES[KINDS[point.group]], point.name].append(config_of(point))
    whole = {program: type_of(FILES[program], program) for program in FILES}
    whole |= {"agents": AgentsTable, "audit": AuditTable, "status_endpoint": StatusEndpointTable}
    whole |= {"policy_endpoint": PolicyEndpointTable}
    for table in document.keys() & whole.keys():
        _, problems = decode(document[table], whole[table])
        assert not [p for p in problems if not p.endswith("is required")]
    for kind in document.keys() - whole.keys():
        for plugin, table in document[kind].items():
            own = {key: value for key, value in table.items() if key not in SHARED}
            if "plugin_cmd" in own:
                assert decode(own, ExternalAttestorTable)[1] == []
                continue
            attempts = [decode(own, config)[1] for config in tables[kind, plugin]]
            assert [] in attempts, attempts


def type_of(config, table):
    return next(f.type for f in msgspec.structs.fields(config) if f.name == table)


@pytest.mark.parametrize("program", ["issuer", "attestor"])
def test_a_complete_file_is_complete(program):
    load(ROOT / "deploy" / "examples" / f"{program}.toml", FILES[program])


class Sample(msgspec.Struct):
    """A table.

    Attributes:
        needed: It has to be there; a text that goes on
            in the next line | with a bar.
        span: A time.
        flag: A truth.
        path: A path.
        tables: Others.
    """

    needed: str
    span: timedelta = timedelta(minutes=90)
    flag: bool = False
    path: Path | None = None
    tables: dict[str, int] = {}


def test_a_table_has_every_option_with_its_default(fill, monkeypatch):
    assert fill.options(f"{__name__}:Sample").splitlines()[2:] == [
        "| `needed` | required | It has to be there; a text that goes on in the next line \\| with a bar. |",
        "| `span` | `90m` | A time. |",
        "| `flag` | `false` | A truth. |",
        "| `path` | none | A path. |",
        "| `tables` | none | Others. |",
    ]


class Undescribed(msgspec.Struct):
    """A table whose docstring forgets an option."""

    forgotten: str = ""


def test_an_option_that_nobody_describes_is_an_error(fill):
    with pytest.raises(KeyError, match="forgotten"):
        fill.options(f"{__name__}:Undescribed")


def test_a_section_is_filled_and_nothing_else(fill):
    page = f"before\n<!-- options: {__name__}:Sample -->\nold\n<!-- end -->\nafter\n"
    after = fill.filled(page)
    assert after.startswith("before\n")
    assert after.endswith("<!-- end -->\nafter\n")
    assert "old" not in after
    assert fill.filled(after) == after
