"""How the program leaves: exit codes, one line per error, no traceback."""

import json
import subprocess
import sys

import pytest

from hetero_tvm import cli
from hetero_tvm.errors import (
    BadInput,
    ComparisonFailed,
    DeviceFailure,
    EnvironmentProblem,
    HeteroError,
)


def command(*words):
    return subprocess.run(
        [sys.executable, "-m", "hetero_tvm", *words], capture_output=True, text=True, check=False
    )


def test_help_lists_every_verb():
    done = command("--help")
    assert done.returncode == 0
    for verb in cli.VERBS:
        assert verb in done.stdout


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_has_help_with_examples_and_exit_codes(verb):
    done = command(verb, "--help")
    assert done.returncode == 0
    assert "examples:" in done.stdout
    assert "exit codes:" in done.stdout


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_is_a_module(verb):
    done = subprocess.run(
        [sys.executable, "-m", f"hetero_tvm.{verb}", "--help"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert f"hetero-tvm {verb}" in done.stdout


def test_unknown_verb_is_bad_input():
    done = command("brew")
    assert done.returncode == 2
    assert "invalid choice: 'brew'" in done.stderr


def test_version():
    assert command("--version").stdout.startswith("hetero-tvm 0.")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ComparisonFailed("no"), 1),
        (BadInput("no"), 2),
        (EnvironmentProblem("no"), 3),
        (DeviceFailure("no"), 4),
        (ZeroDivisionError("no"), 5),
        (KeyboardInterrupt(), 130),
    ],
)
def test_every_failure_has_its_code_and_no_traceback(monkeypatch, capsys, error, code):
    def fail(args):
        raise error

    monkeypatch.setattr("hetero_tvm.run.run", fail)
    assert cli.main(["run", "x.so"]) == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert captured.err.startswith("hetero-tvm run: ")
    if isinstance(error, HeteroError):
        assert captured.err.count("\n") == 1


def test_debug_shows_the_traceback(monkeypatch):
    def fail(args):
        raise BadInput("no")

    monkeypatch.setattr("hetero_tvm.run.run", fail)
    with pytest.raises(BadInput):
        cli.main(["run", "x.so", "--debug"])


def test_importing_the_package_is_cheap():
    code = (
        "import sys, hetero_tvm, hetero_tvm.cli; print('tvm' in sys.modules, 'onnx' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_json_is_one_document_with_a_schema_version(capsys):
    cli.emit_json("build", {"a": 1})
    document = json.loads(capsys.readouterr().out)
    assert document == {"schema_version": cli.SCHEMA_VERSION, "verb": "build", "a": 1}


def test_json_has_no_infinities(capsys):
    cli.emit_json("run", {"a": [float("inf"), float("nan"), 1.5]})
    assert json.loads(capsys.readouterr().out)["a"] == [None, None, 1.5]


def test_output_that_cannot_be_written_is_not_a_success():
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(
            [sys.executable, "-m", "hetero_tvm.build", "--target", "help"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 3
    assert "could not be written" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_closed_stdout_is_no_traceback():
    command = f"{sys.executable} -m hetero_tvm.build --target help >&-"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert "Traceback" not in done.stderr
