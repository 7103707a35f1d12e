"""The documentation site builds without a warning, and its blocks do what they say."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from hetero_tvm.cli import VERBS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted({*DOCS.rglob("*.md")} - {*DOCS.rglob("_generated/**/*.md")} - {DOCS / "README.md"})
RUN = ("sh", "python")
NOT_RUN = ("text", "{toctree}", "{eval-rst}")


def blocks(path):
    """Language and text of each fence of a page."""
    fences = [token for token in MarkdownIt().parse(path.read_text()) if token.type == "fence"]
    return [(token.info.strip(), token.content) for token in fences]


def run_blocks(path, folder, environment):
    """Run a page's blocks in order; the first that fails is said with what it printed."""
    for language, text in blocks(path):
        if language not in RUN:
            continue
        command = ["bash", "-euc", text] if language == "sh" else [sys.executable, "-c", text]
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600
        )
        said = f"{path.name}:\n{text}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        assert done.returncode == 0, said
        assert "Traceback" not in done.stderr, said


def cases():
    for path in PAGES:
        if any(language in RUN for language, _ in blocks(path)):
            nightly = path.read_text().startswith("<!-- nightly -->")
            marks = [pytest.mark.nightly] if nightly else []
            yield pytest.param(path, id=str(path.relative_to(DOCS)), marks=marks)


@pytest.fixture
def environment(tmp_path):
    """As after `. .venv/bin/activate`, with this tree's program."""
    program = tmp_path / "bin" / "hetero-tvm"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m hetero_tvm "$@"\n')
    program.chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HETERO_CACHE_DIR": str(tmp_path / "cache"),
    }


@pytest.mark.parametrize("path", cases())
def test_blocks_run(path, tmp_path, environment):
    folder = tmp_path / "here"
    folder.mkdir()
    if "<!-- needs: tutorial -->" in path.read_text():
        make_model = next(
            text for language, text in blocks(DOCS / "tutorial.md") if language == "python"
        )
        subprocess.run([sys.executable, "-c", make_model], cwd=folder, check=True)
    run_blocks(path, folder, environment)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(DOCS)))
def test_every_block_is_run_or_is_output(path):
    assert {language for language, _ in blocks(path)} <= {*RUN, *NOT_RUN}


def test_a_block_that_fails_is_seen(tmp_path, environment):
    for text in ("```sh\nhetero-tvm explain HT9999\n```\n", "```python\n1 / 0\n```\n"):
        wrong = tmp_path / "wrong.md"
        wrong.write_text(text)
        with pytest.raises(AssertionError, match=r"not known|ZeroDivisionError"):
            run_blocks(wrong, tmp_path, environment)


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
