"""The script, run by a shell."""

import subprocess
from pathlib import Path

import pytest

from hetero_tvm.device_libraries import Library
from hetero_tvm.device_store import StoredFile
from hetero_tvm.start_script import start_script

PROGRAM = """#!/bin/sh
echo "odd=$ODD"
echo "libraries=$LD_LIBRARY_PATH"
for word; do echo "[$word]"; done
"""


@pytest.fixture
def bundle(tmp_path):
    """A device whose program says how it was called."""

    def stored(name, text="", digest=None):
        path = tmp_path / "here" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        file = StoredFile.of(path)
        target = tmp_path / "a device" / "store" / file.sha256 / name
        target.parent.mkdir(parents=True)
        target.write_text(text)
        target.chmod(0o755)
        return file

    def library(name, text, **words):
        return Library(path=Path(name), name=name, **words), stored(name, text)

    libraries = [
        library("program", PROGRAM),
        library("libort.so", "ort", setting="ort.library"),
        library("libextra.so", "extra", load=True),
    ]
    script = start_script(
        libraries, stored("model.so", "model"), [stored("input_0.npy", "0")], {"ODD": "it's $x"}
    )
    run = tmp_path / "a device" / "bundles" / "m" / "run"
    run.parent.mkdir(parents=True)
    run.write_text(script)
    return run


def said(run, *words):
    done = subprocess.run(["sh", str(run), *words], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_a_run_without_inputs_takes_those_of_the_bundle(bundle):
    store = bundle.parent.parent.parent / "store"
    lines = said(bundle, "--repeat", "3")
    assert lines[0] == "odd=it's $x"
    assert lines[1].count(":") == 1 and f"{store}/" in lines[1]
    words = [line.strip("[]") for line in lines[2:]]
    assert words[0] == "--set" and words[1].startswith(f"ort.library={store}/")
    assert words[2] == "--load" and words[3].endswith("/libextra.so")
    assert words[4] == "run" and words[5].endswith("/model.so")
    assert words[6:9] == ["--repeat", "3", "--input"] and words[9].endswith("/input_0.npy")


def test_given_inputs_replace_them(bundle):
    assert said(bundle, "--input", "my own.npy")[-2:] == ["[--input]", "[my own.npy]"]


def test_serving(bundle):
    assert said(bundle, "serve")[-1] == "[serve]"


def test_a_lost_file_is_said(bundle):
    next(bundle.parent.parent.parent.glob("store/*/model.so")).unlink()
    done = subprocess.run(["sh", str(bundle)], capture_output=True, text=True)
    assert done.returncode == 3 and "model.so is gone; deploy again" in done.stderr


def test_a_language_model_generates(tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    stored = StoredFile.of(file)
    library = (Library(path=file, name="file"), stored)
    script = start_script([library], stored, [], {}, prompt=[3, 1])
    assert 'generate "$model" "$@"' in script and 'set -- "$@" --ids 3,1 ;;' in script
    assert "--input" not in script
    assert "--ids" in start_script([library], stored, [], {}, prompt=[]).splitlines()[2]
