"""The example's target is whole, and its README's commands do what they say."""

import json
import re
import shlex
from pathlib import Path

import pytest
import tiny_models as tiny

from hetero_tvm import cli
from target_specs.loader import SpecError, load_spec

FOLDER = Path(__file__).parents[2] / "examples" / "add_a_soc"
SPEC = FOLDER / "example-soc.toml"


def _commands():
    text = (FOLDER / "README.md").read_text()
    block = re.search(r"```\n(.*?)```", text, re.DOTALL)[1]
    return {words[1]: words[2:] for words in map(shlex.split, block.splitlines())}


def test_is_a_target():
    assert load_spec(SPEC).name == "example-soc"


def test_a_misspelt_figure_is_refused_with_its_place(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(SPEC.read_text().replace("wave_size", "wavesize"))
    with pytest.raises(SpecError, match=r"mine.toml.*gpu.*wavesize"):
        load_spec(path)


def test_simulates_a_language_model(capsys, monkeypatch):
    monkeypatch.chdir(FOLDER.parents[1])
    assert cli.main(["simulate", *_commands()["simulate"], "--json", "-q"]) == 0
    assert json.loads(capsys.readouterr().out)["target"] == "example-soc"


def test_plans_a_model(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(FOLDER.parents[1])
    model = str(tiny.mlp(tmp_path / "mlp.onnx", rows=64))
    words = _commands()["plan"]
    target = words[words.index("--target") + 1]
    assert cli.main(["plan", model, "--target", target, "--json", "-q", "--no-estimate"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["target"] == "example-soc" and plan["operators"]
