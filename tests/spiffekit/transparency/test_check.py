# SPDX-License-Identifier: Apache-2.0
"""A log whose files were changed anywhere is not the log that its checkpoint stands for."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spiffekit.errors import LogFormatError, LogMismatchError
from spiffekit.transparency.check import check_log
from spiffekit.transparency.notes import Checkpoint
from tests.spiffekit.transparency.logs import Log, entry, mth

SIZES = (0, 1, 255, 256, 257, 700, 1024)
BROKEN = (LogFormatError, LogMismatchError)


def head(log, size=None):
    size = len(log.entries) if size is None else size
    return Checkpoint("o", size, mth(log.entries[:size]))


def grown(*sizes):
    """A log that was written in steps; the partial tiles of all of them are there."""
    log = Log()
    for size in sizes:
        log.add([entry(number) for number in range(len(log.entries), size)])
    return log


WHOLE = grown(300, 700)


@pytest.mark.parametrize("size", SIZES)
def test_a_log_is_what_its_checkpoint_stands_for(size):
    log, seen = grown(size), []
    assert check_log(log.read, head(log), check_entry=lambda index, data: seen.append((index, data))) == size
    assert seen == list(enumerate(log.entries))


@pytest.mark.parametrize("old", SIZES)
@pytest.mark.parametrize("new", SIZES)
def test_what_was_added_since_a_checkpoint_is_checked_alone(old, new):
    log, seen = grown(new), []
    if old > new:
        with pytest.raises(LogMismatchError, match=f"^the log has {new} entries, and had {old} before$"):
            check_log(log.read, head(log), since=Checkpoint("o", old, b"r" * 32))
        return
    read = check_log(
        log.read, head(log), since=head(log, old), check_entry=lambda index, _: seen.append(index)
    )
    assert read == new - old
    assert seen == list(range(old, new))


def test_an_older_state_of_a_log_is_checked_too():
    assert check_log(WHOLE.read, head(WHOLE, 300)) == 300


def test_a_log_that_did_not_grow_from_a_checkpoint_is_refused():
    for old in (1, 300, 700):
        with pytest.raises(LogMismatchError, match=f"^the first {old} entries are not those of the earlier"):
            check_log(WHOLE.read, head(WHOLE), since=Checkpoint("o", old, b"r" * 32))


def test_a_judge_of_entries_is_heard():
    def judge(index, _):
        if index == 7:
            raise LogMismatchError("entry 7")

    with pytest.raises(LogMismatchError, match=r"^entry 7$"):
        check_log(WHOLE.read, head(WHOLE), check_entry=judge)


FILES = [path for path in sorted(WHOLE.files) if ".p/" not in path or path.endswith((".p/188", ".p/2"))]


def test_the_files_to_be_damaged_are_those_of_the_log():
    assert FILES == [
        "tile/0/000", "tile/0/001", "tile/0/002.p/188", "tile/1/000.p/2",
        "tile/entries/000", "tile/entries/001", "tile/entries/002.p/188",
    ]  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_log_with_anything_changed_anywhere_is_refused(data):
    files = dict(WHOLE.files)
    path = data.draw(st.sampled_from(FILES))
    content = bytearray(files[path])
    at = data.draw(st.integers(0, len(content) - 1))
    match data.draw(st.sampled_from(["flip", "cut", "drop", "double", "swap", "lose", "exchange"])):
        case "flip":
            content[at] ^= data.draw(st.integers(1, 255))
        case "cut":
            del content[at:]
        case "drop":
            del content[at : at + data.draw(st.integers(1, 40))]
        case "double":
            content[at:at] = content[at : at + data.draw(st.integers(1, 40))]
        case "swap":
            other = data.draw(st.integers(0, len(content) - 1))
            content[at], content[other] = content[other], content[at]
        case "lose":
            content = None
        case _:
            content = bytearray(files[data.draw(st.sampled_from(FILES))])
    if content == files[path]:
        return
    files[path] = content if content is None else bytes(content)

    def read(tile):
        if files[tile.path] is None:
            raise LogFormatError("is not there")
        return files[tile.path]

    with pytest.raises(BROKEN):
        check_log(read, head(WHOLE))
    if path in ("tile/0/002.p/188", "tile/1/000.p/2"):  # what the tree at 600 is read from
        with pytest.raises(BROKEN):
            check_log(read, head(WHOLE), since=head(WHOLE, 600))


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_entries_that_were_swapped_or_left_out_are_missed_even_if_all_tiles_were_made_anew(data):
    entries = list(WHOLE.entries)
    at = data.draw(st.integers(0, 698))
    if data.draw(st.booleans()):
        entries[at], entries[at + 1] = entries[at + 1], entries[at]
    else:
        entries[at] = b"forged"
    forged = Log().add(entries)
    with pytest.raises(LogMismatchError, match="do not hash to the root"):
        check_log(forged.read, head(WHOLE))
    shorter = Log().add(WHOLE.entries[:at])
    with pytest.raises(KeyError):
        check_log(shorter.read, head(WHOLE))
