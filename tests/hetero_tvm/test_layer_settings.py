"""The file that says which layers differ."""

from __future__ import annotations

import pytest

from hetero_tvm.block_quantization import Settings
from hetero_tvm.errors import BadInput
from hetero_tvm.layer_settings import read_overrides, settings_of

_NAMES = ["/layers.0/up", "/layers.0/down", "/layers.1/up", "/lm_head"]
_HEADS = frozenset({"/lm_head"})


def _settings(tmp_path, text):
    file = tmp_path / "layers.toml"
    file.write_text(text)
    return settings_of(_NAMES, _HEADS, Settings(), read_overrides(file))


def test_the_head_is_kept_unless_it_is_named(tmp_path):
    assert _settings(tmp_path, "") == {**dict.fromkeys(_NAMES[:3], Settings()), "/lm_head": None}
    named = _settings(tmp_path, '[[layer]]\nmatch = "*head"\nbits = 8\n')
    assert named["/lm_head"] == Settings(bits=8)


def test_later_tables_win_and_keep_what_they_do_not_say(tmp_path):
    found = _settings(
        tmp_path,
        """
        [[layer]]
        match = "/layers.0/*"
        group = 16
        [[layer]]
        match = "*/up"
        symmetric = true
        [[layer]]
        match = "/layers.1/up"
        keep = true
        """,
    )
    assert found["/layers.0/up"] == Settings(group=16, symmetric=True)
    assert found["/layers.0/down"] == Settings(group=16)
    assert found["/layers.1/up"] is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '[[layer]]\nmatch = "/layer.0/up"\nbits = 8',
            r"layers.toml: \[\[layer\]\] 1: no layer is named /layer.0/up; .*/layers",
        ),
        ("[[layer]]\nbits = 8", "say which layers"),
        ('[[layer]]\nmatch = "*"', "says nothing"),
        ('[[layer]]\nmatch = "*"\nbit = 8', "no key bit; there are match, bits"),
        ('[[layer]]\nmatch = "*"\nbits = "8"', "bits must be int"),
        ('[[layer]]\nmatch = "*"\nbits = true', "bits must be int"),
        ('[[layer]]\nmatch = "*"\nbits = 5', "bits 5: 4 or 8"),
        ("[layer]\nbits = 4", r"write \[\[layer\]\]"),
        ("[[layers]]\nbits = 4", r"write \[\[layer\]\] tables, found layers"),
        ("layer = [4]", r"\[\[layer\]\] 1: write a table of settings, not 4"),
        ("layer =", "layers.toml"),
    ],
)
def test_what_the_file_may_not_say(tmp_path, text, said):
    with pytest.raises(BadInput, match=said):
        _settings(tmp_path, text)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(BadInput, match="No such file"):
        read_overrides(tmp_path / "none.toml")
