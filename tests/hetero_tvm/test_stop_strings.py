"""Stop strings end a text however it is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hetero_tvm.errors import BadInput
from hetero_tvm.stop_strings import StopStrings


@given(
    pieces=st.lists(st.text("ab#", max_size=4), max_size=12),
    stops=st.lists(st.text("ab#", min_size=1, max_size=4), max_size=3),
)
def test_the_text_ends_where_the_first_stop_string_begins(pieces, stops):
    # The first piece that completes a stop string ends the text.
    text, wanted = "", None
    for piece in pieces:
        text += piece
        found = [at for at in map(text.find, stops) if at >= 0]
        if found:
            wanted = text[: min(found)]
            break
    watcher = StopStrings(stops)
    shown = "".join(map(watcher.push, pieces)) + watcher.finish()
    assert shown == ("".join(pieces) if wanted is None else wanted)
    assert watcher.stopped == (wanted is not None)


def test_only_what_may_become_a_stop_string_is_held_back():
    watcher = StopStrings(["###"])
    assert [watcher.push(piece) for piece in ["ab#", "#", "c", "#"]] == ["ab", "", "##c", ""]
    assert watcher.finish() == "#"


def test_an_empty_stop_string_is_refused():
    with pytest.raises(BadInput, match="empty"):
        StopStrings(["x", ""])
