# SPDX-License-Identifier: Apache-2.0
"""Our descriptors say on the wire what SPIRE's server API and the Workload API say, and nothing else."""

import importlib
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
from google.protobuf.descriptor import FieldDescriptor

from spiffekit.wire import workload_api

ROOT = Path(__file__).parent.parent
GENERATED = ROOT / "spiffekit/wire/pb"
FACTS = tomllib.loads((ROOT / "tests/vectors_wire/facts.toml").read_text())
OUR_OWN_PACKAGES = ("attestor.v1", "issuer.v1")
CUT_SHORT = (  # of others, with what we need of them
    "envoy.service.auth.v3",
    "runtime.v1",
    "plugin",
    "spire.plugin.agent.workloadattestor.v1",
    "spire.service.common.config.v1",
    "spire.service.private.init.v1",
)
OUR_OWN_NUMBERS = 1000  # fields from here on are additions of ours; a peer that lacks them skips them

KINDS = {
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_BYTES: "bytes",
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_INT64: "int64",
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_UINT32: "uint32",
    FieldDescriptor.TYPE_UINT64: "uint64",
}


def files():
    """The file of every generated module, and of the pool that the Workload API has for itself."""
    for path in sorted(GENERATED.rglob("*_pb2.py")):
        module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
        if module.DESCRIPTOR.package not in (*OUR_OWN_PACKAGES, *CUT_SHORT):
            yield module.DESCRIPTOR
    yield workload_api.messages()["X509SVIDRequest"].DESCRIPTOR.file


def name_of(symbol, package):
    return symbol.full_name.removeprefix(f"{package}." if package else "")


def kind_of(field):
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        key, value = (kind_of(field.message_type.fields_by_name[name]) for name in ("key", "value"))
        return f"map<{key}, {value}>"
    symbol = field.message_type or field.enum_type
    return KINDS[field.type] if symbol is None else name_of(symbol, field.file.package)


def line_of(field):
    parts = [f"{field.number} {field.name}:"]
    kind = kind_of(field)
    oneof = field.containing_oneof
    if field.is_repeated and not kind.startswith("map<"):
        parts.append("repeated")
    if oneof is not None and oneof.name == f"_{field.name}":  # how proto3 spells `optional`
        parts.append("optional")
        oneof = None
    parts.append(kind)
    if oneof is not None:
        parts.append(f"in {oneof.name}")
    return " ".join(parts)


def gather(scope, messages, enums):
    for enum in scope.enum_types_by_name.values():
        enums[enum.full_name] = [f"{value.number} {value.name}" for value in enum.values]
    nested = scope.nested_types_by_name if hasattr(scope, "fields") else scope.message_types_by_name
    for message in nested.values():
        if message.GetOptions().map_entry:
            continue
        messages[message.full_name] = [
            line_of(field)
            for field in sorted(message.fields, key=lambda field: field.number)
            if field.number < OUR_OWN_NUMBERS
        ]
        gather(message, messages, enums)


def line_of_method(method):
    request, response = (
        ("stream " if streams else "") + name_of(message, method.containing_service.file.package)
        for message, streams in (
            (method.input_type, method.client_streaming),
            (method.output_type, method.server_streaming),
        )
    )
    return f"{method.name}: {request} -> {response}"


@pytest.fixture(scope="module")
def ours():
    found = {"services": {}, "messages": {}, "enums": {}}
    for file in files():
        gather(file, found["messages"], found["enums"])
        for service in file.services_by_name.values():
            found["services"][service.full_name] = sorted(map(line_of_method, service.methods))
    return found


@pytest.mark.parametrize(("part", "name"), [(part, name) for part in FACTS for name in FACTS[part]])
def test_a_descriptor_says_what_the_field_knows(ours, part, name):
    assert ours[part].get(name) == FACTS[part][name]


@pytest.mark.requirement("WEP-25", "WLAPI-04")
@pytest.mark.parametrize("part", ["services", "messages", "enums"])
def test_there_is_nothing_that_the_field_does_not_know(ours, part):
    assert sorted(ours[part].keys() - FACTS[part].keys()) == []


def test_the_facts_are_all_there():
    """A file cut short would make every other test here pass."""
    counted = {part: sum(len(lines) for lines in FACTS[part].values()) for part in FACTS}
    assert counted == {"services": 69, "messages": 361, "enums": 25}


@pytest.mark.parametrize(
    "path", sorted((ROOT / "proto").rglob("*.proto")), ids=lambda path: str(path.relative_to(ROOT / "proto"))
)
def test_every_service_method_and_message_says_what_it_is_for(path):
    lines = [line.strip() for line in path.read_text().splitlines()]
    silent = [
        line
        for before, line in pairwise(lines)
        if line.startswith(("service ", "rpc ", "message ", "enum ")) and not before.startswith("//")
    ]
    assert silent == []
