"""Plain lines where there is no terminal; nothing when quiet."""

import io
import sys

from hetero_tvm.progress import Progress


def steps(progress):
    with progress:
        progress.begin({"import": 1.0, "codegen": 2.0})
        progress.step("import")
        progress.note("a note")
        progress.step("codegen")


def test_plain_lines(capsys):
    steps(Progress())
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in lines] == ["a", "import", "codegen"]
    assert lines[1].endswith(" s")


def test_quiet(capsys):
    steps(Progress(quiet=True))
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_bar_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    steps(Progress())
    assert "import" in terminal.getvalue()
    assert "33 %" in terminal.getvalue()


def test_a_failed_step_is_not_reported_as_done(capsys):
    try:
        with Progress() as progress:
            progress.begin({"import": 1.0})
            progress.step("import")
            raise ValueError
    except ValueError:
        pass
    assert capsys.readouterr().err == ""
