"""What `pip install .` takes along: every package, and the data that they read."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("hetero_tvm", "relay_passes", "schedules", "target_specs")


def test_every_package_and_spec_is_installed(tmp_path):
    code = (
        "import runpy, setuptools; found = {}; "
        "setuptools.setup = lambda **words: found.update(words); "
        "runpy.run_path('setup.py'); print(*sorted(found['packages']), sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    on_disk = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for name in PACKAGES
        for path in (ROOT / name).rglob("__init__.py")
    }
    assert "relay_passes.npu_onnx" in on_disk
    assert set(done.stdout.split()) == on_disk
