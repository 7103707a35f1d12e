"""Every shipped architecture loads and has the size its name says; nothing unexplained does."""

import pytest

from target_specs.llm import list_llms, load_llm
from target_specs.loader import SpecError

GOOD = {
    "name": '"demo"',
    "source": '"a card"',
    "layers": 2,
    "hidden": 64,
    "ffn": 128,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 16,
    "vocabulary": 100,
    "weight_bits": 4,
    "activation": '"float16"',
}


def write(tmp_path, **changes):
    keys = {key: value for key, value in {**GOOD, **changes}.items() if value is not None}
    path = tmp_path / "demo.toml"
    path.write_text("".join(f"{key} = {value}\n" for key, value in keys.items()))
    return path


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        # Published totals less the embedding, of which a token reads one row; Llama-3.2-3B uses
        # its embedding as lm_head, so there the total.
        ("llama-3-8b", 8.03 - 0.525),
        ("llama-2-7b", 6.74 - 0.131),
        ("llama-3.2-3b", 3.21),
        ("internlm2-1.8b", 1.89 - 0.19),
    ],
)
def test_shipped_architectures_have_their_size(name, billions):
    llm = load_llm(name)
    assert llm.parameters / 1e9 == pytest.approx(billions, rel=0.01)
    assert "config.json" in llm.source
    assert name in list_llms()


def test_file_of_ones_own(tmp_path):
    llm = load_llm(write(tmp_path))
    assert (llm.query_columns, llm.key_columns) == (64, 32)
    assert llm.parameters == 2 * (64 * 2 * 96 + 3 * 64 * 128) + 64 * 100


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 3}, r"demo\.toml: unknown key 'width'; known keys: name, source, layers"),
        ({"ffn": None}, r"demo\.toml: missing key 'ffn'"),
        ({"layers": 0}, r"demo\.toml: layers must be within 1 to 512"),
        ({"hidden": -64}, r"hidden must be within 32 to 65536"),
        ({"vocabulary": 10**9}, r"vocabulary must be within 2 to 1e\+07 \(rows of the embedding\)"),
        ({"heads": "true"}, r"heads must be a whole number, got True"),
        ({"heads": 4.5}, r"heads must be a whole number, got 4\.5"),
        ({"kv_heads": 3}, r"kv_heads must divide heads, got 3 and 4"),
        ({"weight_bits": 5}, r"weight_bits must be one of 4, 8, 16, got 5"),
        ({"activation": '"int8"'}, r"activation must be float16, got 'int8'"),
        ({"source": '""'}, r"source must be a non-empty text"),
        ({"layers": 512, "hidden": 65536, "ffn": 262144}, r"weights; nothing of that size exists"),
        ({"layers": "="}, r"demo\.toml: not valid TOML"),
    ],
    ids=lambda value: None if isinstance(value, str) else "_".join(value),
)
def test_refuses(tmp_path, changes, message):
    with pytest.raises(SpecError, match=message):
        load_llm(write(tmp_path, **changes))


def test_unknown_name_gets_the_nearest():
    with pytest.raises(SpecError, match=r"unknown llm 'llama3-8b'; did you mean llama-3-8b"):
        load_llm("llama3-8b")
    with pytest.raises(SpecError, match=r"absent\.toml: cannot be read: No such file"):
        load_llm("absent.toml")
