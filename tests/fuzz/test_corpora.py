"""What fuzzing once found interesting, and every find, is still understood or refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from targets import TARGETS

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
CPP = sorted(path.stem for path in (HERE / "cpp").glob("*.cc"))

_IN_CPP = """
import ctypes, sys, tempfile
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
            with tempfile.NamedTemporaryFile() as made:
                made.write(file)
                made.flush()
                model = ctypes.c_void_p()
                status = library.hetero_model_load(made.name.encode(), ctypes.byref(model))
                # Its description may be right; then there is no code to load: not ELF.
                assert status != 0, path.name
        else:
            try:
                load[kind](data)
            except (ValueError, TypeError):
                pass
"""


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


def test_every_target_has_a_corpus():
    assert set(CPP) | set(TARGETS) == {path.name for path in CORPUS.iterdir() if path.is_dir()}
