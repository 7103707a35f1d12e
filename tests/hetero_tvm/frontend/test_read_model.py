"""Files that nobody vouches for: every refusal, and what is let through."""

import os

import onnx
import pytest
from onnx import TensorProto, helper

from hetero_tvm.errors import BadInput
from hetero_tvm.frontend import read_model as reader
from hetero_tvm.frontend.read_model import read_model
from tests.hetero_tvm.frontend.onnx_cases import model, node, randn, save


def _good():
    return model([node("Add", "x w", "y", name="sum")], {"x": [2, 3]}, "y", {"w": randn(2, 3)})


def _external(folder, **changes):
    """A model whose weight lies in `weights.bin`; `changes` overwrite the entries."""
    proto = _good()
    tensor = proto.graph.initializer[0]
    (folder / "weights.bin").write_bytes(tensor.raw_data)
    entries = {"location": "weights.bin", "offset": "0", "length": "24", **changes}
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    return save(proto, folder)


def test_hash_covers_model_and_weights(tmp_path):
    path = _external(tmp_path)
    first = read_model(path).sha256
    assert read_model(path).sha256 == first
    (tmp_path / "weights.bin").write_bytes(bytes(24))
    assert read_model(path).sha256 != first


def test_external_weights_are_read(tmp_path):
    raw = read_model(_external(tmp_path))
    array = onnx.numpy_helper.to_array(raw.proto.graph.initializer[0])
    assert array.tobytes() == (tmp_path / "weights.bin").read_bytes()


def test_large_external_weights_are_mapped_where_asked_for(tmp_path, monkeypatch):
    path = _external(tmp_path)
    raw = read_model(path, mapped=True)
    assert raw.mapped == {}  # too small
    monkeypatch.setattr(reader, "_LEAST_MAPPED_BYTES", 1)
    mapped = read_model(path, mapped=True)
    assert mapped.sha256 == raw.sha256
    assert mapped.mapped["w"].tobytes() == (tmp_path / "weights.bin").read_bytes()
    again = read_model(path, mapped=True, known=mapped)
    assert again.mapped["w"] is mapped.mapped["w"]
    assert (again.sha256, again.proto) == (mapped.sha256, mapped.proto)
    mapped.mapped["w"][:] = 0  # private: the file stays as it is
    assert any((tmp_path / "weights.bin").read_bytes())
    assert not mapped.proto.graph.initializer[0].raw_data
    with pytest.raises(BadInput, match=r"tensor 'w' wants 24 bytes and names bytes 4"):
        read_model(_external(tmp_path, offset="4"), mapped=True)


def test_missing_empty_and_foreign_files(tmp_path):
    with pytest.raises(BadInput, match="no such file"):
        read_model(tmp_path / "none.onnx")
    with pytest.raises(BadInput, match="not a file"):
        read_model(tmp_path)
    path = tmp_path / "model.onnx"
    path.write_bytes(b"")
    with pytest.raises(BadInput, match="the file is empty"):
        read_model(path)
    path.write_bytes(b"\x89PNG\r\n" + bytes(range(256)))
    with pytest.raises(BadInput, match="not an ONNX file, or a truncated one"):
        read_model(path)


def test_every_truncation_is_noticed(tmp_path):
    proto = _good()
    del proto.opset_import[1]  # one entry that it does not need
    whole = proto.SerializeToString()
    path = tmp_path / "model.onnx"
    for length in range(1, len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(BadInput):
            read_model(path)


@pytest.mark.parametrize(
    ("location", "text"),
    [
        ("/etc/passwd", "is an absolute path"),
        ("C:\\weights.bin", "is an absolute path"),
        ("../weights.bin", "leaves the model's folder"),
        ("a/../../weights.bin", "leaves the model's folder"),
        ("a\\..\\weights.bin", "leaves the model's folder"),
        ("none.bin", "does not exist"),
        ("folder", "is not a regular file"),
        ("", "names no file"),
    ],
)
def test_external_data_stays_in_the_folder(tmp_path, location, text):
    (tmp_path / "folder").mkdir()
    path = _external(tmp_path, location=location)
    with pytest.raises(BadInput, match=f"external data of tensor 'w'.*{text}"):
        read_model(path)


@pytest.mark.parametrize("kind", ["symlink", "symlinked_folder", "hard_link"])
def test_links_are_refused(tmp_path, kind):
    inside = tmp_path / "model"
    inside.mkdir()
    outside = tmp_path / "secret.bin"
    outside.write_bytes(bytes(24))
    location = "link.bin"
    if kind == "symlink":
        (inside / "link.bin").symlink_to(outside)
    elif kind == "hard_link":
        os.link(outside, inside / "link.bin")
    else:
        (inside / "folder").symlink_to(tmp_path)
        location = "folder/secret.bin"
    path = _external(inside, location=location)
    with pytest.raises(BadInput, match=r"link; put a real copy of the file inside"):
        read_model(path)


@pytest.mark.parametrize(
    "changes", [{"length": "23"}, {"offset": "1"}, {"offset": "-1"}, {"offset": "999999999999"}]
)
def test_external_data_that_is_too_short(tmp_path, changes):
    with pytest.raises(BadInput, match=r"tensor 'w' wants 24 bytes and names bytes"):
        read_model(_external(tmp_path, **changes))


def test_malformed_offset(tmp_path):
    with pytest.raises(BadInput, match="malformed external offset"):
        read_model(_external(tmp_path, offset="zero"))


def test_impossible_tensors(tmp_path):
    proto = _good()
    proto.graph.initializer[0].dims[0] = 3
    with pytest.raises(BadInput, match=r"shape \[3, 3\] needs 36 bytes and has 24"):
        read_model(save(proto, tmp_path))
    proto.graph.initializer[0].dims[:] = [-1, 6]
    with pytest.raises(BadInput, match=r"impossible shape \[-1, 6\]"):
        read_model(save(proto, tmp_path))
    proto.graph.initializer[0].dims[:] = [2**31, 2**31, 2**31]
    with pytest.raises(BadInput, match="asks for"):
        read_model(save(proto, tmp_path))
    proto.graph.initializer[0].data_type = 999
    proto.graph.initializer[0].dims[:] = [2, 3]
    with pytest.raises(BadInput, match="unknown type 999"):
        read_model(save(proto, tmp_path))


def test_graphs_that_cannot_be(tmp_path):
    proto = _good()
    proto.graph.node[0].input[0] = "ghost"
    with pytest.raises(BadInput, match=r"node 'sum' reads 'ghost', which nothing before it"):
        read_model(save(proto, tmp_path))
    proto = _good()
    proto.graph.output[0].name = "ghost"
    with pytest.raises(BadInput, match="output 'ghost' is produced by no node"):
        read_model(save(proto, tmp_path))
    proto = _good()
    proto.opset_import[0].version = 6
    with pytest.raises(BadInput, match="operator set 6 is outside 7"):
        read_model(save(proto, tmp_path))


def test_limits(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "MAX_NODES", 0)
    with pytest.raises(BadInput, match="1 nodes and 1 tensors; the limits are 0 and"):
        read_model(save(_good(), tmp_path))
    monkeypatch.undo()
    monkeypatch.setattr(reader, "MAX_FILE_BYTES", 10)
    with pytest.raises(BadInput, match="save it with its weights as external data"):
        read_model(save(_good(), tmp_path))


def _nested(depth):
    """A graph with `depth` conditionals inside each other."""
    value = helper.make_tensor_value_info("r", TensorProto.FLOAT, [])
    nodes = [helper.make_node("Identity", ["x"], ["r"])]
    for _ in range(depth):
        inner = helper.make_graph(nodes, "inner", [], [value])
        nodes = [helper.make_node("If", ["c"], ["r"], then_branch=inner)]
    return model(nodes, {"x": [], "c": (TensorProto.BOOL, [])}, "r")


def test_deep_nesting(tmp_path):
    read_model(save(_nested(16), tmp_path))
    with pytest.raises(BadInput, match="nest more than 16 deep"):
        read_model(save(_nested(17), tmp_path))


def _with_functions(calls):
    """A model with functions f0, f1, …; `calls` says for each which numbers it calls."""
    proto = _good()
    proto.opset_import.append(helper.make_opsetid("own", 1))
    proto.graph.node[0].CopyFrom(helper.make_node("f0", ["x"], ["y"], domain="own"))
    for number, others in enumerate(calls):
        nodes = [helper.make_node("Neg", ["a"], ["r"])]
        for index, other in enumerate(others):
            made = helper.make_node(f"f{other}", ["a"], [f"t{index}"], domain="own")
            nodes.append(made)
        made = helper.make_function("own", f"f{number}", ["a"], ["r"], nodes, proto.opset_import)
        proto.functions.append(made)
    return proto


@pytest.mark.parametrize(
    ("calls", "said"),
    [
        ([[0]], "calls itself"),
        ([[1], [2], [0]], "calls itself"),
        ([[n + 1] for n in range(30)] + [[]], "more than 16 deep"),
        ([[n + 1] * 8 for n in range(12)] + [[]], "its functions make [0-9]+ nodes, the limit is"),
    ],
)
def test_functions_without_end(tmp_path, calls, said):
    read_model(save(_with_functions([[1, 1], [2], []]), tmp_path))
    with pytest.raises(BadInput, match=said):
        read_model(save(_with_functions(calls), tmp_path))


def _function_that_reads(tensor):
    proto = _with_functions([[]])
    branch = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["v"])], "b", [], [proto.graph.output[0]], [tensor]
    )
    branch.output[0].name = "v"
    node = helper.make_node("If", ["a"], ["u"], then_branch=branch, else_branch=branch)
    proto.functions[0].node.append(node)
    return proto


def test_external_data_in_branches_of_functions_is_contained_too(tmp_path):
    tensor = onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[6])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    with pytest.raises(BadInput, match="leaves the model's folder"):
        read_model(save(_function_that_reads(tensor), tmp_path))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p: p.graph.node.append(p.graph.node[0]), "produces 'y', which is there already"),
        (lambda p: setattr(p.opset_import[1], "version", 2**40), "operator set of a version"),
        (
            lambda p: setattr(p.graph.input[0].type.tensor_type, "elem_type", 999),
            "'x' has the unknown type 999",
        ),
        (
            lambda p: setattr(p.graph.input[0].type.tensor_type, "elem_type", 0),
            "input 'x' is of no type",
        ),
        (
            lambda p: [p.graph.input[0].type.tensor_type.shape.dim.add() for _ in range(16)],
            "'x' has more than 16 dimensions",
        ),
        (lambda p: p.graph.initializer[0].segment.SetInParent(), "'w' is a part of one"),
        (lambda p: setattr(p.graph.initializer[0], "data_type", TensorProto.STRING), "damaged"),
        (lambda p: p.graph.initializer[0].ClearField("raw_data"), "'w' is damaged"),
    ],
)
def test_what_a_fuzzer_made(tmp_path, change, said):
    proto = _good()
    proto.opset_import.append(helper.make_opsetid("own", 1))
    change(proto)
    with pytest.raises(BadInput, match=said):
        read_model(save(proto, tmp_path))


def test_names_that_are_no_text(tmp_path):
    path = save(_good(), tmp_path)
    path.write_bytes(path.read_bytes().replace(b"sum", b"s\xffm"))
    with pytest.raises(BadInput, match="a name in it is no text"):
        read_model(path)
