"""Data is read as data: nothing in the packages turns a file or a message into code."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("hetero_tvm", "relay_passes", "schedules", "target_specs")
NO_IMPORT = {"pickle", "_pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle", "yaml"}
NO_CALL = {"eval", "exec", "compile", "__import__"}
# What loads through pickle unless it is told otherwise, or runs a shell.
NO_ATTRIBUTE = {("torch", "load"), ("os", "system"), ("os", "popen"), ("pickle", "load")}


def wrong_lines(text):
    found = []
    for node in ast.walk(ast.parse(text)):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Import):
            names = {alias.name.split(".")[0] for alias in node.names}
            found += [(line, name) for name in names & NO_IMPORT]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [(line, node.module)] * (node.module.split(".")[0] in NO_IMPORT)
        elif isinstance(node, ast.Call):
            func = node.func
            of = ""  # the module that a function is called of
            if isinstance(func, ast.Name) and func.id in NO_CALL:
                found.append((line, func.id))
            if isinstance(func, ast.Attribute) and isinstance(func.value, ast.Name):
                of = func.value.id
                found += [(line, func.attr)] * ((of, func.attr) in NO_ATTRIBUTE)
            for keyword in node.keywords:
                risky = keyword.arg == "allow_pickle" or (of, keyword.arg) == (
                    "subprocess",
                    "shell",
                )
                if risky and getattr(keyword.value, "value", None) is not False:
                    found.append((line, keyword.arg))
    return found


@pytest.mark.parametrize("folder", [*PACKAGES, "examples", "benchmarks", "scripts"])
def test_nothing_turns_data_into_code(folder):
    for path in (ROOT / folder).rglob("*.py"):
        assert not wrong_lines(path.read_text()), path.relative_to(ROOT)


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from yaml import load",
        "import a, marshal",
        "eval(x)",
        "torch.load(x)",
        "np.load(x, allow_pickle=True)",
        "np.load(x, allow_pickle=maybe)",
        "subprocess.run(x, shell=True)",
        "__import__(x)",
    ],
)
def test_the_check_sees_them(text):
    assert wrong_lines(text)


def test_the_check_lets_data_be():
    assert not wrong_lines("np.load(x, allow_pickle=False); ast.literal_eval(x); re.compile(x)")
