import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from hetero_tvm import cli
from hetero_tvm.errors import BadInput
from hetero_tvm.tune import _budget

pytest.importorskip("xgboost")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """softmax(relu(x @ w))."""
    random = np.random.default_rng(0)
    weight = numpy_helper.from_array(random.standard_normal((48, 64), dtype=np.float32), "w")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("Relu", ["y"], ["r"]),
        helper.make_node("Softmax", ["r"], ["s"], axis=-1),
    ]
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [32, 48])
    s = helper.make_tensor_value_info("s", onnx.TensorProto.FLOAT, [32, 64])
    graph = helper.make_graph(nodes, "g", [x], [s], [weight])
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=9), path)
    return path


def _flags(model):
    return (model, "--target", "host", "--devices", "gpu")


def test_tunes_goes_on_shows_and_builds(hetero, model, tmp_path, opencl):
    """The user's way: tune, tune again, look, share, build with it, compare."""
    db = tmp_path / "db"
    only = ("--only", "matmul", "--db", db, "--json")
    first = hetero("tune", *_flags(model), "--trials", 4, *only)
    assert first.returncode == 0, first.stderr
    assert "trial 4 of 4" in first.stderr and "left" in first.stderr
    again = hetero("tune", *_flags(model), "--trials", 6, *only)
    assert again.returncode == 0, again.stderr
    (kernel,) = again.json["kernels"]
    assert kernel["trials"] == 6 and kernel["default_us"] > 0
    shown = hetero("tune", "--show", db, "--json").json["kernels"]
    assert [row["trials"] for row in shown] == [6]
    assert hetero("tune", "--db", db, "--export", tmp_path / "out.jsonl").returncode == 0
    merged = hetero("tune", "--db", tmp_path / "other", "--merge", tmp_path / "out.jsonl")
    assert "new records are in" in merged.stdout
    artefact = tmp_path / "model.so"
    built = hetero("build", *_flags(model), "--db", db, "-o", artefact, "--json")
    assert built.returncode == 0, built.stderr
    by_schedule = [use["schedule"] for use in built.json["kernels"]]
    assert len(by_schedule) == 2
    assert by_schedule.count("tuned") == int(kernel["used"])
    compared = hetero("run", artefact, "--compare", model)
    assert compared.returncode == 0, compared.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        pytest.param(["--trials", "0"], 2, "--trials 0: at least 1", id="no_trials"),
        pytest.param(["--budget", "soon"], 2, "--budget soon: write a time", id="budget"),
        pytest.param(["--only", "("], 2, "--only (: no regular expression", id="regex"),
        pytest.param(["--device", "usb"], 2, "--device usb: write local, rpc://", id="device"),
        pytest.param(
            ["--device", "tracker://127.0.0.1:1/phone"], 4, "does not answer", id="tracker_gone"
        ),
        pytest.param(["--device", "rpc://127.0.0.1:1"], 4, "the device server at", id="rpc_gone"),
        pytest.param(["--only", "conv"], 2, "no GPU kernel of that name", id="nothing_left"),
    ],
)
def test_bad_input_is_one_line(model, tmp_path, capfd, words, code, said):
    flags = [str(word) for word in (*_flags(model), "--db", tmp_path / "db")]
    assert cli.main(["tune", *flags, *words, "-q"]) == code
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert said in line


def test_bad_databases_are_one_line(model, tmp_path, capfd):
    (tmp_path / "records.jsonl").write_text("something else\n")
    flags = [str(word) for word in _flags(model)]

    def said(*words):
        assert cli.main([*map(str, words), "-q"]) == 2
        (line,) = capfd.readouterr().err.strip().splitlines()
        return line

    assert "it is left as it is" in said("tune", *flags, "--db", tmp_path)
    assert (tmp_path / "records.jsonl").read_text() == "something else\n"
    none = tmp_path / "none"
    assert "no such folder" in said("build", *flags, "--db", none, "-o", tmp_path / "m.so")
    assert "no such folder" in said("tune", "--show", none)
    assert "two commands" in said("tune", "--show", none, "--export", tmp_path / "x")
    assert "goes with --show" in said("tune", *flags, "--plot", tmp_path / "x.png")


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("1.5h", 5400)])
def test_budgets(text, seconds):
    assert _budget(text) == seconds


@pytest.mark.parametrize("text", ["30", "m", "-5m", "0s", "5 d"])
def test_budgets_that_cannot_be_read(text):
    with pytest.raises(BadInput):
        _budget(text)
