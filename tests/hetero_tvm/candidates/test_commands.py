import emitted
import pytest
import tiny_models

from hetero_tvm import cli

pytest.importorskip("xgboost")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_models.mlp(tmp_path_factory.mktemp("model") / "model.onnx")


def _tune(*words):
    return cli.main(["tune", *map(str, words), "-q"])


def test_two_rounds_without_reaching_the_device(model, tmp_path, capfd):
    """The user's way: emit, run there, absorb, emit again, which goes on."""
    flags = (model, "--target", "host", "--devices", "gpu", "--db", tmp_path / "db")
    search = ("--trials", 3, "--only", "first", "--emit", tmp_path / "c.tar")
    assert _tune(*flags, *search) == 0
    assert "3 candidates of 1 kernels" in capfd.readouterr().out
    emitted.unpack(tmp_path)
    assert emitted.run(tmp_path).returncode == 0
    first = emitted.choices(tmp_path)
    assert _tune("--absorb", tmp_path / "results.json", "--db", tmp_path / "db") == 0
    assert "3 new results from " in capfd.readouterr().out
    assert _tune(*flags, *search) == 0
    assert "any device" not in capfd.readouterr().out
    emitted.unpack(tmp_path)
    second = emitted.choices(tmp_path)
    assert len(first) == len(second) == 3 and not set(first) & set(second)
    assert _tune("--show", tmp_path / "db") == 0
    assert "verified" in capfd.readouterr().out
    artefact = tmp_path / "model.so"
    build = ["build", *map(str, flags), "-o", str(artefact), "-q"]
    assert cli.main(build) == 0
    assert cli.main(["run", str(artefact), "--compare", str(model), "-q"]) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--emit", "c.tar", "--budget", "5m"], "--budget does not go with --emit"),
        (["--emit", "c.tar", "--device", "rpc://h:1"], "--device does not go with --emit"),
        (["--emit", "nowhere/c.tar"], "--emit nowhere/c.tar: name a file in a folder that is"),
        (["--emit", "c.tar", "--on", "adreno"], "--on adreno: no device of that name"),
        (["--on", "adreno"], "--on goes with --emit FILE"),
        (["--absorb", "r.json"], "--absorb goes without a model"),
    ],
)
def test_flags_that_do_not_go_together(model, tmp_path, capfd, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    assert _tune(model, "--target", "host", "--db", tmp_path / "db", *words) == 2
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert said in line


def test_no_database(tmp_path, capfd):
    assert _tune("--absorb", tmp_path / "r.json", "--db", tmp_path / "none") == 2
    assert "name with --db the one that --emit was given" in capfd.readouterr().err
