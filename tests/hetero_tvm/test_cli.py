"""How the program leaves: exit codes, one line per error, no traceback."""

import importlib
import json
import re
import shlex
import signal
import subprocess
import sys

import jsonschema
import pytest

from hetero_tvm import cli
from hetero_tvm.errors import (
    BadInput,
    ComparisonFailed,
    DeviceFailure,
    EnvironmentProblem,
    HeteroError,
)
from hetero_tvm.explain import schema_file

# A command line of each verb that parses and cannot be carried out.
BAD_INPUT = {
    "build": ["missing.onnx", "--target", "host"],
    "plan": ["missing.onnx", "--target", "no-such-soc"],
    "generate": ["missing.so", "hello"],
    "serve": ["missing.so"],
    "quantize": ["missing", "-o", "out"],
    "run": ["missing.so"],
    "report": ["missing.so"],
    "profile": ["missing.so"],
    "bench": ["missing.so"],
    "compare": ["missing.json", "missing.json"],
    "debug": ["missing.so", "--against", "missing.onnx"],
    "clean": ["--older-than", "-1"],
    "explain": ["HT9999"],
    "doctor": ["--no-such-flag"],
    "inspect": ["missing.onnx", "--target", "host"],
    "devices": ["--to", "carrier-pigeon"],
    "deploy": ["missing.so", "--to", "local:here"],
    "tune": ["--show", "missing"],
    "device_server": ["--folder", ".", "--listen", "nowhere"],
    "sign": ["missing.so"],
    "simulate": [],
}


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
def test_every_verb_has_help_with_examples_and_exit_codes(verb, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main([verb, "--help"])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    assert "examples:" in shown
    assert "exit codes:" in shown


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_is_a_module(verb):
    done = subprocess.run(
        [sys.executable, "-m", f"hetero_tvm.{verb}", "--help"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert f"hetero-tvm {verb}" in done.stdout


def examples():
    """Every command line in the help of a verb, as words."""
    for verb in cli.VERBS:
        text = re.sub(r"\\\n\s*", "", importlib.import_module(f"hetero_tvm.{verb}").EXAMPLES)
        for line in text.splitlines():
            for found in re.findall(
                r"(?<!`)hetero-tvm (\w+[^|>&]*?)(?:   |, then| [|>&#]|$)", line
            ):
                yield pytest.param(found, id=found)


@pytest.mark.parametrize("line", examples())
def test_examples_in_the_help_parse(line):
    words = shlex.split(line, comments=True)
    args = cli.build_parser([words[0]]).parse_args(words)
    assert callable(args.run)


@pytest.mark.parametrize("verb", cli.VERBS)
def test_bad_input_of_every_verb_is_2_and_one_line(verb, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main([verb, *BAD_INPUT[verb]]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"hetero-tvm {verb}: error: ")
    assert re.search(r"\[hetero-tvm explain HT2\d{3}\]\n$", captured.err)
    assert captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", cli.VERBS)
def test_a_fault_in_any_verb_is_5_with_a_report(verb, tmp_path, monkeypatch, capsys):
    def fail(args):
        raise ZeroDivisionError("an injected fault")

    monkeypatch.setenv("HETERO_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(f"hetero_tvm.{verb}.run", fail)
    words = [] if BAD_INPUT[verb] == ["--no-such-flag"] else BAD_INPUT[verb]
    assert cli.main([verb, *words]) == 5
    captured = capsys.readouterr()
    assert captured.out == "" and "Traceback" not in captured.err
    (report,) = (tmp_path / "reports").iterdir()
    assert str(report) in captured.err and "[hetero-tvm explain HT5000]" in captured.err
    assert "ZeroDivisionError: an injected fault" in report.read_text()


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        pytest.param(MemoryError(), 3, "out of memory", id="memory"),
        pytest.param(OSError(28, "No space left on device", "big.so"), 3, "big.so: No", id="disk"),
        pytest.param(
            DeviceFailure("OpenCL: clFinish failed: CL_OUT_OF_RESOURCES"),
            4,
            "[hetero-tvm explain HT4000 OpenCL -5]",
            id="codes_of_drivers_are_named",
        ),
        pytest.param(BadInput("one\n  and two"), 2, "error: one and two [", id="one_line"),
    ],
)
def test_what_the_line_says(monkeypatch, capsys, error, code, words):
    def fail(args):
        raise error

    monkeypatch.setattr("hetero_tvm.run.run", fail)
    assert cli.main(["run", "x.so"]) == code
    assert words in capsys.readouterr().err


def test_a_result_that_does_not_hold_names_its_explanation(monkeypatch, capsys):
    monkeypatch.setattr("hetero_tvm.run.run", lambda args: 1)
    assert cli.main(["run", "x.so"]) == 1
    assert "[hetero-tvm explain HT1000]" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_offered_for_every_verb(shell, capsys):
    assert cli.main(["--print-completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(verb in script for verb in cli.VERBS) and "plan-only" in script


def test_bash_completes_verbs_and_flags(tmp_path):
    script = tmp_path / "completion.bash"
    script.write_text(command("--print-completion", "bash").stdout)
    ask = (
        f"source {script}; COMP_WORDS=(hetero-tvm {{words}}); COMP_CWORD={{last}}; "
        'f=$(complete -p hetero-tvm | sed "s/.*-F \\([^ ]*\\).*/\\1/"); '
        '$f hetero-tvm "${{COMP_WORDS[COMP_CWORD]}}" ""; echo "${{COMPREPLY[@]}}"'
    )
    for words, last, wanted in (("qua", 1, "quantize"), ("run --comp", 2, "--compare")):
        asked = ask.format(words=words, last=last)
        done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True)
        assert done.stdout.split() == [wanted], done.stderr


def test_unknown_shell_and_missing_package(monkeypatch, capsys):
    assert cli.main(["--print-completion", "elvish"]) == 2
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert cli.main(["--print-completion", "bash"]) == 3
    assert "hetero-tvm[completion]" in capsys.readouterr().err


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
    cli.emit_json("serve", {"name": "a", "url": "b"})
    document = json.loads(capsys.readouterr().out)
    assert document == {"schema_version": 1, "verb": "serve", "name": "a", "url": "b"}


def test_json_has_no_infinities(capsys):
    cli.emit_json("serve", {"name": "a", "url": "b", "c": [float("inf"), float("nan"), 1.5]})
    assert json.loads(capsys.readouterr().out)["c"] == [None, None, 1.5]


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_has_a_schema_that_refuses(verb):
    schema = json.loads(schema_file(verb).read_text())
    checker = jsonschema.Draft202012Validator
    checker.check_schema(schema)
    head = {"schema_version": cli.SCHEMA_VERSION, "verb": verb}
    assert schema["properties"]["schema_version"] == {"const": cli.SCHEMA_VERSION}
    assert not checker(schema).is_valid(head)  # a result has more than its head
    assert not checker(schema).is_valid({**head, "verb": "brew"})


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


def test_flags_come_from_a_file_too(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HETERO_CACHE_DIR", str(tmp_path / "none"))
    flags = tmp_path / "my flags"
    flags.write_text("--dry-run  # nothing goes\n--only npu\n--json\n")
    for words in (["--flags", str(flags)], [f"--flags={flags}"]):
        assert cli.main(["clean", *words]) == 0
        found = json.loads(capsys.readouterr().out)
        assert not found["removed"]
        assert [row["part"] for row in found["parts"]] == ["npu"]


@pytest.mark.parametrize("content", [None, "'open", b"\xff", "--no-such-flag"])
def test_flags_that_cannot_be_read(tmp_path, capsys, content):
    flags = tmp_path / "flags"
    if content is not None:
        flags.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert cli.main(["clean", "--flags", str(flags)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert cli.main(["clean", "--flags"]) == 2


def test_ctrl_c_that_became_another_error_is_an_interruption(monkeypatch, capsys):
    def doctor(_args):
        with pytest.raises(KeyboardInterrupt):
            cli._interrupt(signal.SIGINT, None)
        raise ImportError("initialization failed")  # as a native module says it

    monkeypatch.setattr(cli, "_struck", [])
    monkeypatch.setattr("hetero_tvm.doctor.run", doctor)
    assert cli.main(["doctor"]) == 130
    assert "interrupted" in capsys.readouterr().err
