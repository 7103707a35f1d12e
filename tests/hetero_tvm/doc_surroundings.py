"""What a reader has who follows a page: programs, models, a board over ssh, an adb server.

The language model is tiny and has random weights; the board and adb's device are this machine.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import adb_server
import numpy as np
import onnx
import ssh_server
import tiny_llm
from doc_blocks import blocks
from fake_llm import tokenizer_texts
from models import fetch
from onnx import TensorProto, helper, numpy_helper

from hetero_tvm import runtime

ROOT = Path(__file__).parents[2]
TUTORIAL = ROOT / "docs" / "tutorial.md"
Environment = dict[str, str]


def environment(folder: Path) -> Environment:
    """As after `. .venv/bin/activate`, with this tree's program, and nothing of the user's home."""
    programs = folder / "bin"
    programs.mkdir(parents=True)
    for name, words in {
        "hetero-tvm": "-m hetero_tvm",
        "python": "",
        "python3": "",
        "pip": "-m pip",
    }.items():
        _program(programs / name, f'"{sys.executable}" {words}')
    (folder / "home").mkdir()
    found = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(folder / "home"),
        "HETERO_CACHE_DIR": str(folder / "cache"),
        # `pip install` says what it would do; `make` uses this Python, not a new one's.
        "PIP_DRY_RUN": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_ROOT_USER_ACTION": "ignore",
        "MAKEFLAGS": f"PY={sys.executable} READY=",
    }
    found.pop("HETERO_ESTIMATE", None)  # a reader has it not
    return found


def _program(path: Path, command: str) -> None:
    path.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    path.chmod(0o755)


@contextlib.contextmanager
def prepared(words: list[str], folder: Path, environment: Environment) -> Iterator[None]:
    """Put what a page needs into `folder`, the one that its blocks run in."""
    with contextlib.ExitStack() as running:
        for word in words:
            made = _MAKERS[word](folder, environment)
            if made is not None:
                running.enter_context(made)
        yield


def _tutorial(folder: Path, environment: Environment) -> None:
    """`model.onnx`, as the tutorial makes it."""
    make = next(block.text for block in blocks(TUTORIAL) if block.language == "python")
    subprocess.run([sys.executable, "-c", make], cwd=folder, check=True)


def _checkout(folder: Path, environment: Environment) -> None:
    """A checkout after `make demo`: all that this one has, but builds and environments."""
    for path in ROOT.iterdir():
        if not path.name.startswith(".") and path.name != "build":
            (folder / path.name).symlink_to(path)
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "activate").write_text("")


def _picture(folder: Path, environment: Environment) -> None:
    """`model.onnx`, `detector.onnx`: convolutions of pictures `x` [1, 3, h, w] of any size.

    The second has enough of them that a Snapdragon's NPU gains something.
    """
    onnx.save(_convolutions([8]), folder / "model.onnx")
    onnx.save(_convolutions([64, 64, 64, 8]), folder / "detector.onnx")


def _convolutions(channels: list[int]) -> onnx.ModelProto:
    random = np.random.default_rng(0)
    weights, nodes = [], []
    for index, (into, out) in enumerate(itertools.pairwise([3, *channels])):
        weight = random.normal(0, (into * 9) ** -0.5, (out, into, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"w{index}"))
        read = f"h{index - 1}" if index else "x"
        written = "y" if index == len(channels) - 1 else f"h{index}"
        conv = helper.make_node(
            "Conv",
            [read, f"w{index}"],
            [f"c{index}"],
            name=f"conv{index}",
            strides=[1, 1] if index else [4, 4],
            pads=[1, 1, 1, 1],
        )
        nodes += [conv, helper.make_node("Relu", [f"c{index}"], [written], name=f"relu{index}")]
    graph = helper.make_graph(
        nodes,
        "picture",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, channels[-1], "h4", "w4"])],
        weights,
    )
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def _minilm(folder: Path, environment: Environment) -> None:
    """The encoder of `make demo`, under its own name and as `encoder.onnx`."""
    path = fetch("minilm")
    for name in (path.name, "encoder.onnx"):
        (folder / name).symlink_to(path)


def _language_model(folder: Path, environment: Environment) -> None:
    """`model_folder`, and texts."""
    made = tiny_llm.build(tiny_llm.TinyLlm(vocabulary=320, context=4096), folder / "model_folder")
    for name, text in tokenizer_texts().items():
        (made / name).write_text(text)
    for name in ("sample.txt", "article.txt"):
        (folder / name).write_text("A hot dog is no dog. " * 40)
    (folder / "layers.toml").write_text('[[layer]]\nmatch = "*"\nbits = 8\n')


@contextlib.contextmanager
def _board(folder: Path, environment: Environment) -> Iterator[None]:
    """`me@board` over ssh, as `~/.ssh/config` would name it; adb's server with one device."""
    state = folder.parent / "board"
    state.mkdir()
    driver = runtime.library_paths()["opencl.fallback_library"]
    if driver is not None:  # one of Python's packages: as if the system had it
        libraries = state / "lib"
        libraries.mkdir()
        library = libraries / "libOpenCL.so.1"
        library.symlink_to(driver)
        environment["LD_LIBRARY_PATH"] = f"{libraries}:{driver.parent}"
        _program(folder.parent / "bin" / "ldconfig", f"echo 'libOpenCL.so.1 => {library}' #")
    with ssh_server.ssh_server(state, environment) as server:
        config = state / "config"
        config.write_text(
            f"Host board\n  HostName 127.0.0.1\n  Port {server.port}\n  User me\n"
            + config.read_text()
        )
        environment["HOME"] = str(server.home)
        client = shutil.which("ssh")
        _program(folder.parent / "bin" / "ssh", f'"{client}" -F "{config}"')
        phone = state / "phone"
        phone.mkdir()
        with adb_server.running(phone) as (_, port):
            environment["ANDROID_ADB_SERVER_PORT"] = str(port)
            yield


_MAKERS: dict[str, Callable[[Path, Environment], contextlib.AbstractContextManager | None]] = {
    "tutorial": _tutorial,
    "checkout": _checkout,
    "picture": _picture,
    "minilm": _minilm,
    "language model": _language_model,
    "board": _board,
}
