"""Pages of documentation as a reader follows them: their blocks in order, in one folder.

| block | what is done with it |
|---|---|
| `sh`, `python` | run; it has to succeed, without a traceback |
| `console` | its `$ ` lines are run; all others have to be in what they print, but those with `…` |
| `console` that shows an `error:` | the same, and it has to fail |
| `sh` that begins with NOT_RUN and a reason | counted, not run |
| after `<!-- in the background until port N answers -->` | started, interrupted at the page's end |

A page that begins with `<!-- nightly -->` is long; `<!-- needs: words -->` names what it expects to
find (`doc_surroundings.py`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

RUN = ("sh", "python", "console")
OUTPUT = ("text", "{toctree}", "{eval-rst}")
NOT_RUN = "# not run by the tests: "
_BACKGROUND = re.compile(r"<!-- in the background until port (\d+) answers -->")
_NEEDS = re.compile(r"<!-- needs: (.+) -->")
_LONG_S = 1800
_READY_S = 120


@dataclasses.dataclass(frozen=True, kw_only=True)
class Block:
    """One fence; `port` answers once it is up, where it stays in the background."""

    language: str
    text: str
    port: int | None = None

    @property
    def not_run(self) -> str | None:
        """Why it cannot be run, where it says so."""
        first = self.text.partition("\n")[0]
        return first.removeprefix(NOT_RUN) if first.startswith(NOT_RUN) else None

    @property
    def is_run(self) -> bool:
        """Whether `run_blocks` runs it."""
        return self.language in RUN and self.not_run is None


def blocks(path: Path) -> list[Block]:
    """Each fence of a page."""
    found: list[Block] = []
    port = None
    for token in MarkdownIt().parse(path.read_text()):
        if token.type == "html_block" and (mark := _BACKGROUND.search(token.content)):
            port = int(mark[1])
        elif token.type == "fence":
            found.append(Block(language=token.info.strip(), text=token.content, port=port))
            port = None
    return found


def needs(path: Path) -> list[str]:
    """What the page expects to find."""
    return [word for words in _NEEDS.findall(path.read_text()) for word in words.split(", ")]


def is_nightly(path: Path) -> bool:
    """Whether its blocks take too long for the ordinary run."""
    return path.read_text().startswith("<!-- nightly -->")


def command_lines(text: str) -> list[str]:
    """The commands of an `sh` or `console` block, each on one line, without comments."""
    joined = re.sub(r"\\\n\s*", "", text)
    if joined.startswith("$ ") or "\n$ " in joined:
        joined = "\n".join(line[2:] for line in joined.splitlines() if line.startswith("$ "))
    return [line.strip() for line in joined.splitlines() if line.strip() and line[0] != "#"]


def run_blocks(path: Path, folder: Path, environment: dict[str, str]) -> None:
    """Run a page's blocks; the first that fails is said with what it printed."""
    with contextlib.ExitStack() as running:
        for block in blocks(path):
            if not block.is_run:
                continue
            if block.port is not None:
                running.enter_context(_background(path, block, folder, environment))
                continue
            program = [sys.executable, "-c", block.text]
            if block.language != "python":
                program = ["bash", "-euc", "\n".join(command_lines(block.text))]
            done = subprocess.run(
                program,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_LONG_S,
            )
            said = f"{path.name}:\n{block.text}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
            fails = block.language == "console" and " error: " in block.text
            assert (done.returncode != 0) == fails, said
            assert "Traceback" not in done.stderr, said
            if block.language == "console":
                missing = _missing(block.text, done.stdout + done.stderr)
                assert not missing, f"not printed any more: {missing}\n{said}"


def _missing(text: str, printed: str) -> list[str]:
    """Lines of output that the block shows and that were not printed; white space is one space."""
    lines = {" ".join(line.split()) for line in printed.splitlines()}
    joined = re.sub(r"\\\n\s*", "", text)
    shown = [" ".join(line.split()) for line in joined.splitlines() if not line.startswith("$ ")]
    return [line for line in shown if line and "…" not in line and line not in lines]


@contextlib.contextmanager
def _background(path, block, folder, environment):
    """The block runs until the page ends, and ends well when it is interrupted."""
    if _answers(block.port):
        pytest.skip(f"port {block.port} is in use here")
    log = folder / f".background-{time.monotonic_ns()}"
    # `exec`, so that the interrupt reaches the program; a shell in between might keep it.
    lines = command_lines(block.text)
    program = ["bash", "-euc", "\n".join([*lines[:-1], f"exec {lines[-1]}"])]
    with log.open("w") as said:
        process = subprocess.Popen(
            program, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said
        )
    try:
        end = time.monotonic() + _READY_S
        while not _answers(block.port):
            words = f"{path.name}:\n{block.text}\n{log.read_text()}"
            assert process.poll() is None and time.monotonic() < end, words
            time.sleep(0.1)
        yield
    finally:
        process.send_signal(signal.SIGINT)
        try:
            code = process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert code in (0, 130, 255, -signal.SIGINT), f"{block.text}\nended with {code}"
    assert "Traceback" not in log.read_text(), log.read_text()


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5):
        return True
    return False
