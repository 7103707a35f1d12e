"""What every verb owes its user, over the table of verbs: a new one that lacks any of it fails."""

import ast
import importlib
import json
import re
import socket
from pathlib import Path

import onnx
import pytest
import tiny_models as tiny
from onnx import TensorProto, helper

from hetero_tvm import cli
from hetero_tvm.errors import (
    BadInput,
    ComparisonFailed,
    DeviceFailure,
    EnvironmentProblem,
    HeteroError,
)

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "hetero_tvm").rglob("*.py"))
KINDS = {
    kind.exit_code: kind
    for kind in (ComparisonFailed, BadInput, EnvironmentProblem, DeviceFailure, HeteroError)
}
COMMON = ("--json", "--quiet", "--verbose", "--debug", "--flags", "--help")
# Words of a command line that ends with the code because something is so, not because a test
# pretends it. Filled in: MODEL and its ARTEFACT, OTHER (another model of the same shapes), WHOLE (a
# model of whole numbers), PORT (which is in use), HERE (a folder).
OCCURS = {
    ("run", 1): ["ARTEFACT", "--compare", "OTHER"],
    ("compare", 1): ["HERE/fast.json", "HERE/slow.json"],
    ("inspect", 1): ["WHOLE", "--target", "host", "--require", "npu=50%"],
    ("sign", 1): ["ARTEFACT"],
    ("run", 4): ["ARTEFACT", "--to", "adb:gone"],
    ("profile", 4): ["ARTEFACT", "--to", "adb:gone"],
    ("bench", 4): ["ARTEFACT", "--to", "adb:gone"],
    ("devices", 4): ["--to", "adb:gone"],
    ("doctor", 4): ["--to", "adb:gone"],
    ("deploy", 4): ["ARTEFACT", "--to", "adb:gone"],
    ("tune", 4): ["MODEL", "--target", "host", "--device", "rpc://127.0.0.1:1", "--trials", "1"],
    ("device_server", 2): ["--folder", "HERE/fast.json", "--listen", "127.0.0.1:0"],
    ("device_server", 3): ["--folder", "HERE/served", "--listen", "127.0.0.1:PORT"],
}
# Codes that take a program of their own to occur.
ELSEWHERE = {
    ("debug", 1): "hetero_tvm/test_debug.py: test_the_wrong_layer_is_named",
    ("generate", 4): "hetero_tvm/test_remote_llm.py: test_a_device_that_is_not_there_is_named",
}


def documented(verb):
    """The exit codes that the verb's help names, each with its words."""
    text = importlib.import_module(f"hetero_tvm.{verb}").EXAMPLES
    (listed,) = re.findall(r"exit codes: ([^.]*?)\n*\Z", text, re.DOTALL)
    parts = re.split(r"[,;]\s+(?=\d)", " ".join(listed.split()))
    return {int(number): words for number, words in (part.split(" ", 1) for part in parts)}


@pytest.mark.parametrize("verb", cli.VERBS)
def test_help_says_what_each_exit_code_means(verb):
    codes = documented(verb)
    assert set(codes) >= {0} and set(codes) <= {0, *KINDS, 130}
    assert 2 in codes or verb == "doctor"  # which reads nothing of the user's
    assert all(words.strip() for words in codes.values())


@pytest.mark.parametrize("verb", cli.VERBS)
def test_help_has_what_every_verb_takes(verb, capsys):
    with pytest.raises(SystemExit):
        cli.main([verb, "--help"])
    shown = capsys.readouterr().out
    assert all(flag in shown for flag in COMMON)
    assert "exit code 5" in " ".join(shown.split()) and "130" in shown
    assert re.search(rf"^  (\w+=\S+ )?hetero-tvm {verb}\b", shown, re.MULTILINE)  # an example


def codes_of_verbs():
    for verb in cli.VERBS:
        for code in sorted({*documented(verb), 5} & KINDS.keys()):
            yield verb, code


@pytest.mark.parametrize(("verb", "code"), codes_of_verbs())
def test_an_error_of_each_kind_leaves_a_verb_with_its_code(
    verb, code, monkeypatch, capsys, tmp_path
):
    def fail(args):
        print("half of the data")
        raise KINDS[code]("the reason\nin two lines")

    monkeypatch.setenv("HETERO_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(f"hetero_tvm.{verb}.run", fail)
    words = _shortest(verb)
    assert cli.main([verb, *words]) == code
    captured = capsys.readouterr()
    assert captured.out == "half of the data\n"
    assert captured.err.startswith(f"hetero-tvm {verb}: error: ")
    assert captured.err.count("\n") == 1 and "Traceback" not in captured.err
    assert re.search(rf"\[hetero-tvm explain HT{code}\d\d\d\]\n$", captured.err)
    with pytest.raises(KINDS[code]):
        cli.main([verb, *words, "--debug"])


def subparser_of(verb):
    """The verb's own parser."""
    parser = cli.build_parser([verb])
    return next(a for a in parser._actions if a.dest == "verb").choices[verb]


def _shortest(verb):
    """Words that parse: the verb's positional arguments and the flags that it cannot go without."""
    words = []
    for action in subparser_of(verb)._actions:
        if action.required:
            count = action.nargs if isinstance(action.nargs, int) else 1
            words += [*action.option_strings[:1], *["x"] * count]
    return words


def whole_numbers(path):
    """A sum of int64, which no NPU takes."""
    kind = TensorProto.INT64
    x, y = (helper.make_tensor_value_info(name, kind, [4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "whole", [x], [y])
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


@pytest.fixture(scope="module")
def here(deployed_here, tmp_path_factory, request):
    """A folder with two measurements; what stands for names in OCCURS."""
    from test_compare import BENCH

    folder = tmp_path_factory.mktemp("here")
    slow = json.loads(json.dumps(BENCH))
    slow["times_ms"]["p50"] *= 3
    (folder / "fast.json").write_text(json.dumps(BENCH))
    (folder / "slow.json").write_text(json.dumps(slow))
    taken = socket.create_server(("127.0.0.1", 0))
    request.addfinalizer(taken.close)
    return {
        "PORT": taken.getsockname()[1],
        "MODEL": deployed_here.model,
        "ARTEFACT": deployed_here.artefact,
        "OTHER": tiny.mlp(folder / "other.onnx", seed=5),
        "WHOLE": whole_numbers(folder / "whole.onnx"),
        "HERE": folder,
    }


@pytest.mark.parametrize(("verb", "code"), OCCURS)
def test_codes_that_occur(verb, code, here, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", "1")
    words = OCCURS[verb, code]
    for name, value in here.items():
        words = [word.replace(name, str(value)) for word in words]
    assert cli.main([verb, *words, "-q"]) == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    # One that does not answer is a row of the table of devices, or of checks.
    if verb not in ("devices", "doctor"):
        assert f"[hetero-tvm explain HT{code}" in captured.err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_gates_and_devices_are_all_tried():
    """Every verb whose help names 1, and every one that takes --to and names 4."""
    for verb in cli.VERBS:
        if 1 in documented(verb):
            assert {(verb, 1)} & {*OCCURS, *ELSEWHERE}, verb
        takes_device = "--to DEVICE" in subparser_of(verb).format_help()
        if takes_device and 4 in documented(verb):
            assert {(verb, 4)} & {*OCCURS, *ELSEWHERE}, verb
    for place in ELSEWHERE.values():
        file, test = place.split(": ")
        assert f"def {test}(" in (ROOT / "tests" / file).read_text(), place


def test_data_and_talk_go_through_one_door():
    """No module prints to stdout but `cli`, and none to a terminal but `progress`."""
    prints, terminals, colours = set(), set(), set()
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        name = path.relative_to(ROOT / "hetero_tvm").as_posix()
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print":
                if not any(keyword.arg == "file" for keyword in node.keywords):
                    prints.add(name)
            if isinstance(node, ast.Attribute) and node.attr == "isatty":
                terminals.add(name)
            if isinstance(node, ast.Import | ast.ImportFrom) and "tqdm" in ast.dump(node):
                terminals.add(name)
            if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
                text = node.value if isinstance(node.value, str) else node.value.decode("latin-1")
                if "\x1b" in text:  # so NO_COLOR is respected: there is none
                    colours.add(name)
    # The runner of candidates travels alone, and its list of devices is its data.
    assert prints == {"cli.py", "candidates/runner.py"}
    assert terminals == {"progress.py"}
    assert colours == set()
