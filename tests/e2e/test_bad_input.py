"""Everything a user gets wrong: one line that says where, what and what to do; exit code 2 or 3;
nothing written."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper


def tiny(shape=("n", 4), op="Relu", domain=""):
    node = helper.make_node(op, ["x"], ["y"], name="the_node", domain=domain)
    graph = helper.make_graph(
        [node],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    opsets = [helper.make_opsetid("", 18)]
    if domain:
        opsets.append(helper.make_opsetid(domain, 1))
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


@pytest.fixture
def refused(hetero, tmp_path):
    """Build must fail with `code`, one line, nothing written; returns the line."""

    def check(*words, code=2, env=None):
        before = sorted(path.name for path in tmp_path.rglob("*"))
        done = hetero("build", *words, "-o", tmp_path / "out.so", "-q", env=env)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        assert done.stdout == ""
        lines = done.stderr.strip().splitlines()
        assert len(lines) == 1, done.stderr
        assert sorted(path.name for path in tmp_path.rglob("*")) == before
        return lines[0]

    return check


@pytest.fixture
def save(tmp_path):
    def write(model, name="model.onnx"):
        path = tmp_path / name
        onnx.save(model, path)
        return path

    return write


def test_missing_file(refused, tmp_path):
    assert "none.onnx: no such file" in refused(tmp_path / "none.onnx", "-t", "host")


def test_truncated_file(refused, save):
    path = save(tiny())
    path.write_bytes(path.read_bytes()[:-7])
    assert "not an ONNX file, or a truncated one" in refused(path, "-t", "host")


def test_not_onnx(refused, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"PK\x03\x04 this is something else entirely")
    assert "not an ONNX file, or a truncated one" in refused(path, "-t", "host")


def test_free_dimension_names_it_and_shows_the_flag(refused, save):
    line = refused(save(tiny()), "-t", "host")
    assert "input 'x' leaves dimension 0 ('n') open" in line
    assert "--input x=1x4:float32" in line


def test_wrong_input_name(refused, save):
    line = refused(save(tiny()), "-t", "host", "--input", "z=1x4")
    assert "no input 'z'; the model's inputs are: x" in line


def test_wrong_rank(refused, save):
    line = refused(save(tiny()), "-t", "host", "--input", "x=1x2x3")
    assert "[1, 2, 3] does not fit the model's x [n, 4] float32 (rank 2)" in line


def test_wrong_fixed_dimension(refused, save):
    line = refused(save(tiny()), "-t", "host", "--input", "x=2x5")
    assert "[2, 5] does not fit the model's x [n, 4] float32 (dimension 1)" in line


def test_unreadable_flag(refused, save):
    assert "'axb' is no shape" in refused(save(tiny()), "-t", "host", "--input", "x=axb")


def test_unknown_target_gives_nearest_names(refused, save):
    line = refused(save(tiny((1, 4))), "-t", "snapdragn-8-gen-3")
    assert "snapdragon-8-gen-3" in line


def test_unknown_operators_all_at_once(refused, save):
    model = tiny((1, 4), op="Frobnicate", domain="my.domain")
    extra = helper.make_node("Twist", ["y"], ["z"], name="second_node", domain="my.domain")
    model.graph.node.append(extra)
    model.graph.output[0].name = "z"
    line = refused(save(model), "-t", "host")
    for word in ("Frobnicate", "the_node", "Twist", "second_node"):
        assert word in line


@pytest.mark.parametrize("kind", ["parent", "absolute", "symlink"])
def test_external_data_outside_the_folder(refused, tmp_path, kind):
    folder = tmp_path / "inside"
    folder.mkdir()
    outside = tmp_path / "secret.bin"
    outside.write_bytes(np.ones(4, np.float32).tobytes())
    location = {"parent": "../secret.bin", "absolute": str(outside), "symlink": "link.bin"}[kind]
    if kind == "symlink":
        (folder / "link.bin").symlink_to(outside)
    weight = numpy_helper.from_array(np.ones(4, np.float32), "w")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        weight.external_data.add(key=key, value=value)
    model = tiny((1, 4))
    model.graph.node[0].CopyFrom(helper.make_node("Add", ["x", "w"], ["y"], name="add"))
    model.graph.initializer.append(weight)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    line = refused(path, "-t", "host")
    assert "'w'" in line
    assert "outside" in line or "link" in line


def test_output_folder_must_exist(hetero, save, tmp_path):
    done = hetero("build", save(tiny((1, 4))), "-t", "host", "-o", tmp_path / "no" / "out.so")
    assert done.returncode == 2
    assert "does not exist" in done.stderr


def test_no_opencl_device(hetero, save, tmp_path):
    """Building works without a driver; running says what to install."""
    artefact = tmp_path / "out.so"
    done = hetero("build", save(tiny((1, 4))), "-t", "host", "-o", artefact)
    assert done.returncode == 0, done.stderr
    done = hetero("run", artefact, env={"HETERO_OPENCL_LIB": "/nonexistent/libOpenCL.so"})
    assert done.returncode == 3, done.stderr
    assert "install" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_run_refuses_a_damaged_artefact(hetero, built, tmp_path):
    artefact, _ = built("silero-vad", "host")
    data = bytearray(artefact.read_bytes())
    data[len(data) // 2] ^= 1
    damaged = tmp_path / "damaged.so"
    damaged.write_bytes(data)
    done = hetero("run", damaged)
    assert done.returncode == 2
    assert "damaged" in done.stderr


@pytest.mark.parametrize(
    ("words", "text", "code"),
    [
        (["--inputs", "nothing.npz"], "nothing.npz", 2),
        (["--repeat", "-1"], "--repeat -1: at least 0", 2),
        (["--seed", "-1"], "--seed -1: at least 0", 2),
        (["--tolerance", "nan"], "--tolerance nan: at least 0", 2),
        (["--save", "."], "is a folder", 2),
        (["--device", "no such device"], "no such device", 3),
    ],
)
def test_run_flags(hetero, built, words, text, code):
    artefact, _ = built("silero-vad", "host")
    done = hetero("run", artefact, *words)
    assert done.returncode == code
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_run_refuses_wrong_inputs(hetero, built, tmp_path):
    artefact, _ = built("silero-vad", "host")
    np.save(tmp_path / "a.npy", np.zeros((1, 5), np.float32))
    done = hetero("run", artefact, "--inputs", f"input={tmp_path / 'a.npy'}")
    assert done.returncode == 2
    assert "shape [1, 5], the model takes [1, 576]" in done.stderr
    done = hetero("run", artefact, "--inputs", f"bogus={tmp_path / 'a.npy'}")
    assert done.returncode == 2
    assert "bogus" in done.stderr
    np.save(tmp_path / "b.npy", np.zeros((1, 576), np.float64))
    done = hetero("run", artefact, "--inputs", f"input={tmp_path / 'b.npy'}")
    assert done.returncode == 2
    assert "float64" in done.stderr


def test_run_reads_no_pickles(hetero, built, tmp_path):
    artefact, _ = built("silero-vad", "host")
    np.save(tmp_path / "p.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    done = hetero("run", artefact, "--inputs", f"input={tmp_path / 'p.npy'}")
    assert done.returncode == 2


def test_output_must_not_be_the_model(hetero, save):
    path = save(tiny((1, 4)))
    before = path.read_bytes()
    done = hetero("build", path, "-t", "host", "-o", path)
    assert done.returncode == 2
    assert "is the model itself" in done.stderr
    assert path.read_bytes() == before


def test_a_damaged_npz(hetero, built, tmp_path):
    artefact, _ = built("silero-vad", "host")
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 junk")
    done = hetero("run", artefact, "--inputs", tmp_path / "bad.npz")
    assert done.returncode == 2
    assert "bad.npz" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_linker_that_fails(hetero, save, tmp_path):
    path = save(tiny((1, 4)))
    done = hetero("build", path, "-t", "host", "-o", tmp_path / "m.so", env={"CXX": "/bin/false"})
    assert done.returncode == 3
    assert "linking with /bin/false failed" in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
