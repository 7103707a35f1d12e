"""What fuzzing once found interesting, and every find, is still understood or refused."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path

import json_mutator
import pytest
from targets import TARGETS

from hetero_tvm import bundle
from hetero_tvm.typed_json import from_object, parse_object
from hetero_tvm.weights_layout import Weights

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
CPP = sorted(path.stem for path in (HERE / "cpp").glob("*.cc"))

_IN_CPP = """
import ctypes, json, sys, tempfile
from pathlib import Path
import tvm_ffi
from hetero_tvm import bundle, runtime
import hashlib
runtime.load()
load = {
    "kernel_table": tvm_ffi.get_global_func("ffi.Module.load_from_bytes.opencl"),
    "npu_header": lambda header: tvm_ffi.get_global_func("hetero_tvm.npu_module_create")(
        header.decode("latin-1"), []
    ),
}
library = ctypes.CDLL(str(runtime.LIBRARY))
library.hetero_last_error.restype = ctypes.c_char_p
for kind in sys.argv[2:]:
    folder = Path(sys.argv[1]) / kind
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        if kind == "manifest":
            file = data[1:]
            if data[:1] != b"\\0":
                digest = hashlib.sha256(file).digest()
                file += bundle._FOOTER.pack(digest, len(file), bundle._MAGIC)
            if data[:1] == b"\\2":
                file = bytes(4096) + file
            with tempfile.NamedTemporaryFile() as made:
                made.write(file)
                made.flush()
                model = ctypes.c_void_p()
                status = library.hetero_model_load(made.name.encode(), ctypes.byref(model))
                # Its description may be right; then there is no code to load: not ELF.
                assert status != 0, path.name
                said = library.hetero_last_error().decode()
        else:
            said = ""
            try:
                load[kind](data)
            except (ValueError, TypeError) as error:
                said = str(error)
        print(json.dumps([f"{kind}/{path.name}", said]))
"""
# What is said of them: of seeds, what comes after their description was understood.
_NO_CODE = "Failed to get file format"
_SAID_IN_CPP = {
    "manifest/plain": _NO_CODE,
    "manifest/variants": _NO_CODE,
    "manifest/tuned": _NO_CODE,
    "manifest/whole_file": _NO_CODE,
    "manifest/signed": _NO_CODE,
    "manifest/llm": "a language model, which takes tokens",
    "manifest/weights": "a language model, which takes tokens",
    "manifest/too_long": "main_8 is for a length of 2305843009213693953",
    "manifest/too_many_tokens": "remembers 2147483648",
    "manifest/empty_of_giants": "the shape is too large",
    "npu_header/null": "",
    "npu_header/region": "describes more models than there are",
    "npu_header/targets": "describes more models than there are",
    "npu_header/weights": "describes more models than there are",
    "kernel_table/one": "",
    "kernel_table/two": "",
    "kernel_table/images": "",
}
_UNDERSTOOD = ("py_plain", "py_variants", "py_llm", "py_weights")


@pytest.mark.parametrize("name", TARGETS)
def test_python(name):
    files = sorted((CORPUS / name).iterdir())
    assert files
    for path in files:
        TARGETS[name](path.read_bytes())


def test_cpp():
    """In a process of its own, which may die; `scripts/fuzz_cpp.sh` runs them with sanitizers."""
    names = [name for name in CPP if name != "npy"]
    done = subprocess.run(
        [sys.executable, "-c", _IN_CPP, str(CORPUS), *names],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = dict(map(json.loads, done.stdout.splitlines()))
    for name, what in _SAID_IN_CPP.items():
        assert what in said[name] and (what or not said[name]), name


def test_seeds_are_of_this_version(tmp_path):
    """Else a fuzzer begins at what is refused at once, and learns nothing of what lies behind."""
    for name in _UNDERSTOOD:
        data = (CORPUS / "manifest" / name).read_bytes()
        text = data[1:]
        sealed = text + bundle._FOOTER.pack(hashlib.sha256(text).digest(), len(text), b"HETROTVM")
        path = tmp_path / name
        path.write_bytes(bytes(4096 if data[0] == 2 else 0) + sealed)
        bundle.read_manifest(path)
    described = from_object(Weights, parse_object((CORPUS / "weights" / "two").read_bytes()))
    described.check()


def test_every_target_has_a_corpus():
    assert set(CPP) | set(TARGETS) == {path.name for path in CORPUS.iterdir() if path.is_dir()}


def test_changed_documents_stay_documents():
    """And keep what stands before them, by which targets choose."""
    seed = (CORPUS / "manifest" / "py_weights").read_bytes()
    made = set()
    for number in range(200):
        changed = json_mutator.mutate(seed, 4096, random.Random(number), lambda data, size: b"")
        if changed:
            assert changed[:1] == seed[:1] and len(changed) <= 4096
            assert isinstance(json.loads(changed[1:]), dict | list | str | int | float | None)
            made.add(changed)
    assert len(made) > 150
