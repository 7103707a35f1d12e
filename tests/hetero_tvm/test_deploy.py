"""The verb: what it prints, lists and removes."""

import json

import device_fixture
import pytest

from hetero_tvm import cli


@pytest.fixture
def flags():
    driver = device_fixture.opencl_environment().get("HETERO_OPENCL_LIB")
    return ["--opencl-library", driver] if driver else []


def test_deploy_run_list_remove(deployed_here, flags, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HETERO_CACHE_DIR", str(deployed_here.artefact.parent / "cache"))
    to = ["--to", f"local:{tmp_path}/device"]
    assert cli.main(["deploy", str(deployed_here.artefact), *to, *flags, "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert [part["held"] for part in done["parts"]] == [True] * 4
    assert done["footprint_bytes"] < 40e6
    run = ["run", str(deployed_here.artefact), *to, "--compare", str(deployed_here.model)]
    assert cli.main(run) == 0
    assert "held" in capsys.readouterr().out
    assert cli.main(["deploy", "--list", *to]) == 0
    assert "mlp.onnx" in capsys.readouterr().out
    assert cli.main(["deploy", "--remove", "mlp", *to]) == 0
    assert not (tmp_path / "device").exists()
    assert cli.main(["deploy", "--remove", "mlp", *to]) == 2
    assert "no bundle mlp; nothing is deployed there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param([], "one of them", id="nothing_to_do"),
        pytest.param(["a.so", "--list"], "one of them", id="two_things_to_do"),
        pytest.param(["none.so"], "no such file", id="no_artefact"),
        pytest.param(["--list", "--name", "x"], "", id="a_name_does_no_harm"),
    ],
)
def test_bad_input(words, said, tmp_path, capsys):
    code = cli.main(["deploy", *words, "--to", f"local:{tmp_path}/device"])
    assert code == (2 if said else 0)
    assert said in capsys.readouterr().err


def test_an_unknown_way(capsys):
    assert cli.main(["deploy", "--list", "--to", "carrier-pigeon"]) == 2
    assert "--to carrier-pigeon: one of ssh://" in capsys.readouterr().err
