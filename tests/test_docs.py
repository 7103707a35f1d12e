"""The documentation site builds without a warning, and its blocks do what they say."""

import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import doc_surroundings
import pytest
from doc_blocks import OUTPUT, RUN, blocks, command_lines, is_nightly, needs, run_blocks

from hetero_tvm.cli import VERBS, build_parser

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = [
    README,
    *sorted({*DOCS.rglob("*.md")} - {*DOCS.rglob("_generated/**/*.md")} - {DOCS / "README.md"}),
]
# Every block that says that it is not run, and why; a new one is to be thought over.
NOT_RUN: dict[str, list[str]] = {}


def name_of(path):
    return str(path.relative_to(ROOT))


def cases():
    for path in PAGES:
        if any(block.is_run for block in blocks(path)):
            marks = [pytest.mark.nightly] if is_nightly(path) else []
            yield pytest.param(path, id=name_of(path), marks=marks)


@pytest.mark.parametrize("path", cases())
def test_blocks_run(path, tmp_path):
    environment = doc_surroundings.environment(tmp_path)
    folder = tmp_path / "here"
    folder.mkdir()
    with doc_surroundings.prepared(needs(path), folder, environment):
        run_blocks(path, folder, environment)


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_block_is_run_or_is_output(path):
    assert {block.language for block in blocks(path)} <= {*RUN, *OUTPUT}
    for block in blocks(path):
        if block.language == "text":  # what a reader would type is no output
            assert not re.search(r"^\$ |^hetero-tvm |^python |^make ", block.text, re.MULTILINE)


def test_blocks_that_are_not_run_say_why():
    found = {name_of(path): [b.not_run for b in blocks(path) if b.not_run] for path in PAGES}
    assert {name: reasons for name, reasons in found.items() if reasons} == NOT_RUN


def commands():
    """Every command line of ours on a page, as words."""
    for path in PAGES:
        for block in blocks(path):
            if block.language in ("sh", "console"):
                for line in command_lines(block.text):
                    for found in re.findall(r"(?<![\w-])hetero-tvm ([a-z][^|>&;]*[^|>&; ])", line):
                        yield pytest.param(found, id=f"{path.stem}: {found[:60]}")


@pytest.mark.parametrize("line", commands())
def test_commands_parse(line):
    words = shlex.split(line, comments=True)
    assert callable(build_parser([words[0]]).parse_args(words).run)


def test_a_block_that_fails_is_seen(tmp_path):
    environment = doc_surroundings.environment(tmp_path)
    for text in (
        "```sh\nhetero-tvm explain HT9999\n```\n",
        "```python\n1 / 0\n```\n",
        "```console\n$ hetero-tvm --version\nhetero-tvm 0.0.0 not known\n```\n",
        "<!-- in the background until port 1 answers -->\n```sh\necho not known\n```\n",
    ):
        wrong = tmp_path / "wrong.md"
        wrong.write_text(text)
        with pytest.raises(AssertionError, match=r"not known|ZeroDivisionError"):
            run_blocks(wrong, tmp_path, environment)


def test_a_background_block_ends_with_its_page(tmp_path):
    page = tmp_path / "page.md"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    page.write_text(
        f"<!-- in the background until port {port} answers -->\n"
        f"```sh\npython -m http.server --bind 127.0.0.1 {port}\n```\n"
        "```sh\n# not run by the tests: it would fail\nfalse\n```\n"
        "```console\n$ echo one \\\n    two\none two\n…\n```\n"
    )
    run_blocks(page, tmp_path, doc_surroundings.environment(tmp_path / "e"))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 5)


def test_every_verb_has_a_how_to():
    text = "\n".join(path.read_text() for path in (DOCS / "how-to").glob("*.md"))
    headings = " ".join(re.findall(r"^#+ (.*)$", text, re.MULTILINE)).lower()
    missing = [verb for verb in VERBS if not re.search(rf"\b{verb}\b", headings)]
    assert missing == []


def test_the_quick_start_is_short():
    text = (ROOT / "README.md").read_text()
    (quick,) = re.findall(r"^## Five minutes\n.*?(?=^## )", text, re.MULTILINE | re.DOTALL)
    assert len(quick.splitlines()) <= 60


@pytest.mark.nightly
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("sphinx")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", DOCS, tmp_path],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    for verb in VERBS:
        page = (tmp_path / "_generated" / "verbs" / f"{verb}.html").read_text()
        assert "--quiet" in page
    assert "HT2103" in (tmp_path / "_generated" / "errors.html").read_text()
    pages = "".join(path.read_text() for path in tmp_path.rglob("*.html"))
    assert not re.search(r'(src|href)="(https?:)?//[^"]*\.(js|css|woff2?)"', pages)  # offline
