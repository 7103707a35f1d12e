"""What `pip install .` takes along: every package, and the data that they read."""

import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement

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
    named = set(done.stdout.split())
    assert on_disk <= named
    for folder in named - on_disk:  # data alone: named so that setuptools does not warn of it
        assert not list((ROOT / folder.replace(".", "/")).glob("*.py")), folder


def test_pins_are_of_what_is_asked_for():
    """Each with a hash; `make pins` makes them anew."""
    (file,) = (ROOT / "requirements").glob("*.txt")
    entries = [block.split() for block in file.read_text().replace("\\\n", " ").splitlines()]
    assert all(any(word.startswith("--hash=sha256:") for word in words) for words in entries)
    pins = {Requirement(words[0].split(";")[0]).name: words[0].split("==")[1] for words in entries}
    extras = ["qnn", "cpu-opencl", "sign", "llm", "serve", "tune", "dev"]
    asked = subprocess.run(
        [sys.executable, "scripts/requirements.py", "--build", *extras],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    ).stdout.splitlines()
    for line in asked:
        wanted = Requirement(line)
        assert wanted.specifier.contains(pins[wanted.name].rstrip(";")), line
