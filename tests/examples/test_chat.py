"""The chat builds a folder and holds a conversation; a tiny model stands for a real one."""

import subprocess
import sys
from pathlib import Path

import pytest
from fake_llm import tokenizer_texts
from tiny_llm import TinyLlm, build

SCRIPT = Path(__file__).parents[2] / "examples" / "chat" / "chat.py"


@pytest.mark.nightly
def test_answers_every_question_and_ends_at_an_empty_line(tmp_path, opencl):
    build(TinyLlm(vocabulary=320, context=256), tmp_path / "model")
    for name, text in tokenizer_texts().items():
        (tmp_path / "model" / name).write_text(text)
    command = [sys.executable, str(SCRIPT), "--model", str(tmp_path / "model"), "--longest", "5"]
    command += ["--artefact", str(tmp_path / "chat.so"), "--context", "256"]
    for _ in range(2):  # the second time it is built already
        done = subprocess.run(
            command, input="hot dog?\nwhy?\n\n", capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("you> ") == 3
    assert "building" not in done.stderr and (tmp_path / "chat.so").is_file()


def test_a_folder_that_is_none_is_an_error(tmp_path):
    command = [sys.executable, str(SCRIPT), "--model", str(tmp_path / "none")]
    done = subprocess.run(
        [*command, "--artefact", str(tmp_path / "chat.so")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "none" in done.stderr.splitlines()[-1]
