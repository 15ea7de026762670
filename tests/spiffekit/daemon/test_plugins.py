# SPDX-License-Identifier: Apache-2.0
"""Only what the configuration names is loaded, and every mistake in it is told at once."""

import sys
import textwrap

import msgspec
import pytest

from attestor.keys.memory import MemoryKeys
from spiffekit.daemon import plugins
from spiffekit.daemon.config import ConfigError

GROUP = "tests.animals"
MODULE = "plugins_of_a_test"


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A distribution with plug-ins: good, demanding, broken, and one that shows when it is imported."""
    info = tmp_path / "animals-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: animals\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        f"[{GROUP}]\nbear = {MODULE}_bear:bear\n"
        + "".join(f"{name} = {MODULE}:{name}\n" for name in ("cat", "dog", "wolf"))
    )
    (tmp_path / f"{MODULE}.py").write_text(
        textwrap.dedent("""
        import msgspec
        from spiffekit.daemon.config import ConfigError

        class Cat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
            lives: int = 9

        class Dog(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
            name: str
            age: int = 1

        def cat(config: Cat) -> object:
            return config

        def dog(config: Dog) -> object:
            if config.age > 30:
                raise ConfigError("age: no dog is that old", "name: nor has one this name")
            return config

        def wolf(config: Cat) -> object:
            raise RuntimeError("wolves raise what they like")
        """)
    )
    (tmp_path / f"{MODULE}_bear.py").write_text("raise SystemExit('imported although nobody named it')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop(MODULE, None)


def load(tables):
    return plugins.load(GROUP, tables, prefix="animal.")


@pytest.mark.usefixtures("installed")
def test_what_the_configuration_names_is_loaded_with_its_table():
    found = load({"cat": {"lives": 7}, "dog": {"name": "Rex"}})
    assert list(found) == ["cat", "dog"]
    assert found["cat"].lives == 7
    assert found["dog"].name == "Rex"


@pytest.mark.usefixtures("installed")
def test_what_nobody_names_is_not_even_imported():
    load({"cat": {}})
    assert f"{MODULE}_bear" not in sys.modules
    assert load({}) == {}


@pytest.mark.usefixtures("installed")
def test_an_unknown_name_is_answered_with_those_that_exist():
    with pytest.raises(ConfigError) as caught:
        load({"lion": {}})
    assert caught.value.errors == ["animal.lion: no such plug-in; installed are: bear, cat, dog, wolf"]


def test_a_group_without_plugins_says_so():
    with pytest.raises(ConfigError) as caught:
        plugins.load("tests.nothing", {"lion": {}})
    assert caught.value.errors == ["lion: no such plug-in; installed are: none"]


@pytest.mark.usefixtures("installed")
def test_every_mistake_is_told_at_once_with_the_key_it_is_in():
    with pytest.raises(ConfigError) as caught:
        load({"lion": {}, "cat": {"lives": "many", "tails": 2}, "dog": {}})
    assert sorted(caught.value.errors) == [
        "animal.cat.lives: Expected `int`, got `str`",
        "animal.cat.tails: unknown key",
        "animal.dog.name: is required",
        "animal.lion: no such plug-in; installed are: bear, cat, dog, wolf",
    ]


@pytest.mark.usefixtures("installed")
def test_what_a_plugin_itself_refuses_is_told_with_its_key():
    with pytest.raises(ConfigError) as caught:
        load({"dog": {"name": "Rex", "age": 31}})
    assert caught.value.errors == [
        "animal.dog.age: no dog is that old",
        "animal.dog.name: nor has one this name",
    ]


@pytest.mark.usefixtures("installed")
def test_the_bug_of_a_plugin_is_not_taken_for_a_configuration_error():
    with pytest.raises(RuntimeError, match="wolves raise what they like"):
        load({"wolf": {}})


def test_our_own_come_in_by_the_same_door():
    (keys,) = plugins.load("attestor.keys", {"memory": {}}, prefix="key_manager.").values()
    assert isinstance(keys, MemoryKeys)


@pytest.mark.parametrize(
    "group", ["attestor.node", "attestor.workload", "attestor.keys", "issuer.node", "issuer.keys"]
)
def test_each_of_our_plugins_takes_one_table_that_forbids_what_it_does_not_know(group):
    from importlib.metadata import entry_points
    from typing import get_type_hints

    points = entry_points(group=group)
    assert points
    for point in points:
        (kind,) = [hint for name, hint in get_type_hints(point.load()).items() if name != "return"]
        assert issubclass(kind, msgspec.Struct)
        assert kind.__struct_config__.forbid_unknown_fields
        assert kind.__struct_config__.frozen
