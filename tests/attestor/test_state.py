# SPDX-License-Identifier: Apache-2.0
"""The state outlives a restart whole; a half or damaged one never counts."""

import base64
import json
import stat
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestor.errors import StateError
from attestor.issuer_client import new_key
from attestor.state import FILE, NodeState, StateFile
from spiffekit.daemon.config import ConfigError
from spiffekit.id import TrustDomain
from spiffekit.keys import private_key_from_der
from spiffekit.testing import TestCA

CA = TestCA("example.org")
SVID = CA.issue("spiffe://example.org/spire/agent/join_token/x")
KEY = private_key_from_der(SVID.private_key_der)
STATE = NodeState(SVID, CA.bundle, reattestable=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("state") / "data"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "data"


def state_file(folder, trust_domain="example.org"):
    return StateFile(folder, TrustDomain(trust_domain))


@pytest.mark.parametrize("reattestable", [True, False])
def test_the_state_survives_a_restart(folder, reattestable):
    state = replace(STATE, reattestable=reattestable)
    state_file(folder).save(state)
    assert state_file(folder).load([new_key(), KEY]) == state
    assert state_file(folder).bundle() == CA.bundle


def test_at_first_there_is_none(folder):
    assert state_file(folder).load([KEY]) is None
    assert state_file(folder).bundle() is None


def test_room_for_a_state_is_looked_for_and_nothing_is_left_of_it(folder):
    state_file(folder).require_room()
    assert list(folder.iterdir()) == []
    (folder / f"{FILE}.trial").mkdir()  # nothing can be written there
    with pytest.raises(OSError):
        state_file(folder).require_room()
    assert len(list(folder.iterdir())) == 1


def test_the_file_is_ours_alone_and_holds_no_key(folder):
    state_file(folder).save(STATE)
    (file,) = folder.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    document = file.read_bytes()
    assert base64.b64encode(SVID.private_key_der)[60:-4] not in document
    assert b"PRIVATE" not in document


@pytest.mark.parametrize("keys", [[], [new_key(), new_key()]], ids=["none", "others"])
def test_a_state_without_its_key_does_not_count_but_its_bundle_does(folder, keys):
    state_file(folder).save(STATE)
    assert state_file(folder).load(keys) is None
    assert state_file(folder).bundle() == CA.bundle


def test_a_state_of_another_trust_domain_does_not_count(folder):
    state_file(folder).save(STATE)
    other = state_file(folder, "other.org")
    assert other.load([KEY]) is None
    assert other.bundle() is None


def test_a_new_state_replaces_the_old_one(folder):
    state_file(folder).save(STATE)
    svid = CA.issue("spiffe://example.org/spire/agent/join_token/x")
    state_file(folder).save(NodeState(svid, CA.bundle, reattestable=False))
    keys = [KEY, private_key_from_der(svid.private_key_der)]
    assert state_file(folder).load(keys).svid == svid
    assert [path.name for path in folder.iterdir()] == [FILE]


def test_a_forgotten_state_is_gone(folder):
    state_file(folder).save(STATE)
    state_file(folder).forget()
    state_file(folder).forget()
    assert state_file(folder).load([KEY]) is None
    assert state_file(folder).bundle() is None


def test_no_beginning_of_a_state_counts(folder):
    state_file(folder).save(STATE)
    path = folder / FILE
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert state_file(folder).load([KEY]) is None, length
        assert state_file(folder).bundle() is None, length


@pytest.mark.filterwarnings("ignore")  # of certificates that are damaged
@settings(deadline=None)
@given(st.data())
def test_a_damaged_state_is_no_state_and_no_crash(place, data):
    state_file(place).save(STATE)
    path = place / FILE
    damaged = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(damaged) - 1))
    damaged[position] ^= data.draw(st.integers(1, 255))
    path.write_bytes(damaged)
    found = state_file(place).load([KEY])
    assert found is None or found.svid.private_key_der == SVID.private_key_der
    bundle = state_file(place).bundle()
    assert bundle is None or bundle.trust_domain == CA.trust_domain


@pytest.mark.parametrize(
    "changes",
    [
        {"chain": []},
        {"chain": None},
        {"chain": [1]},
        {"chain": ["!"]},
        {"chain": [base64.b64encode(b"no certificate").decode()]},
        {"bundle": base64.b64encode(b"no message").decode()},
        {"bundle": None},
        {"bundle": ""},
    ],
    ids=lambda changes: "-".join(f"{k}={v}" for k, v in changes.items()),
)
def test_a_state_with_a_bad_part_does_not_count(folder, changes):
    state_file(folder).save(STATE)
    document = json.loads((folder / FILE).read_bytes())
    (folder / FILE).write_text(json.dumps(document | changes))
    assert state_file(folder).load([KEY]) is None


@pytest.mark.parametrize("document", ["[]", "null", "1", '"text"', "{}"])
def test_another_document_does_not_count(folder, document):
    state_file(folder).save(STATE)
    (folder / FILE).write_text(document)
    assert state_file(folder).load([KEY]) is None
    assert state_file(folder).bundle() is None


def test_a_truth_that_is_none_is_false(folder):
    state_file(folder).save(STATE)
    document = json.loads((folder / FILE).read_bytes())
    (folder / FILE).write_text(json.dumps(document | {"reattestable": "yes"}))
    assert not state_file(folder).load([KEY]).reattestable


def test_a_state_that_cannot_be_read_is_not_taken_for_none(folder):
    """Else a node would spend its join token again, and end."""
    state_file(folder).save(STATE)
    (folder / FILE).unlink()
    (folder / FILE).mkdir()
    for read in (lambda: state_file(folder).load([KEY]), state_file(folder).bundle):
        with pytest.raises(StateError, match=r"^state of the node cannot be read: "):
            read()


def test_a_folder_that_others_may_enter_is_refused(folder):
    state_file(folder).save(STATE)
    folder.chmod(0o755)
    with pytest.raises(ConfigError, match="with mode 0700"):
        state_file(folder).load([KEY])
    with pytest.raises(ConfigError, match="with mode 0700"):
        state_file(folder).save(STATE)
