"""The verb, and building signed."""

import json

import pytest
import tiny_models as tiny

from hetero_tvm import cli


def test_a_key_a_signed_build_and_who_signed_it(tmp_path, capsys, monkeypatch):
    key, artefact = tmp_path / "key", tmp_path / "mlp.so"
    assert cli.main(["sign", "--new-key", str(key)]) == 0
    model = tiny.mlp(tmp_path / "mlp.onnx")
    words = ["build", str(model), "--target", "host", "-o", str(artefact), "-q"]
    assert cli.main([*words, "--sign", str(key)]) == 0
    capsys.readouterr()
    assert cli.main(["sign", str(artefact), "--json"]) == 0
    signed_by = json.loads(capsys.readouterr().out)["signed_by"]
    assert signed_by == (tmp_path / "key.pub").read_text().strip()
    assert cli.main([*words, "--no-check"]) == 0
    assert cli.main(["sign", str(artefact)]) == 1
    assert "not signed" in capsys.readouterr().out
    assert cli.main(["sign", str(artefact), "--key", str(key)]) == 0
    assert signed_by in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "name an artefact, or --new-key"),
        (["none.so"], "no such file"),
        (["a.so", "--new-key", "k"], "--new-key stands alone"),
    ],
)
def test_bad_input(words, said, capsys):
    assert cli.main(["sign", *words]) == 2
    assert said in capsys.readouterr().err


def test_a_wrong_key_is_said_before_the_build(tmp_path, capsys):
    model = tiny.mlp(tmp_path / "mlp.onnx")
    words = ["build", str(model), "--target", "host", "-o", str(tmp_path / "a.so"), "-q"]
    assert cli.main([*words, "--sign", str(tmp_path / "none")]) == 2
    assert "no private key" in capsys.readouterr().err
