"""The verb writes one file, or one line that says why not."""

import json

import pytest
import report_model
import tiny_models as tiny

from hetero_tvm import cli


def test_writes_beside_the_artefact(capsys):
    path = report_model.artefact()
    assert cli.main(["report", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["report"] == str(path.with_suffix(".html"))
    text = path.with_suffix(".html").read_text()
    assert text.startswith("<!doctype html>") and "mlp.onnx on host" in text


def test_build_writes_it_too(tmp_path, capsys):
    model = tiny.mlp(tmp_path / "mlp.onnx")
    words = ["build", str(model), "-t", "host", "-o", str(tmp_path / "m.so"), "--no-check"]
    assert cli.main([*words, "--report", str(tmp_path / "r.html"), "-q"]) == 0
    assert "mlp.onnx on host" in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["report", "{folder}/none.so"], "no such file"),
        (["report", "{folder}/model.onnx"], "not an artefact"),
        (["report", "{so}", "-o", "{so}"], "would overwrite an input"),
        (["report", "{so}", "-o", "{folder}/none/r.html"], "does not exist"),
        (["report", "{so}", "--profile", "{folder}/p.json"], "No such file"),
        (
            ["build", "{folder}/model.onnx", "--plan-only", "--report", "{folder}/r.html"],
            "--plan-only makes none",
        ),
        (
            ["build", "{folder}/model.onnx", "--report", "{folder}/model.onnx"],
            "would overwrite an input",
        ),
    ],
)
def test_what_is_wrong_is_one_line(words, said, tmp_path, capsys):
    tiny.mlp(tmp_path / "model.onnx")
    places = {"folder": tmp_path, "so": report_model.artefact()}
    assert cli.main([word.format(**places) for word in words]) == 2
    assert said in capsys.readouterr().err
