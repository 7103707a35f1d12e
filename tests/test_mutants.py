"""Of small faults in planner and split the tests notice most; see `scripts/mutants.py`."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def _script():
    spec = importlib.util.spec_from_file_location("mutants", ROOT / "scripts" / "mutants.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_interval_is_wilsons():
    """Against figures of Newcombe (1998), table I: 81 of 263, and 15 of 148."""
    assert _script().interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert _script().interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=1e-4)


def test_results_are_of_the_part_that_is_asked_for(tmp_path, monkeypatch):
    script = _script()
    monkeypatch.setattr(script, "WORK", tmp_path)
    for name, codes in {"planner/solve": {"a": 1, "b": None}, "split_tensor": {"c": 0}}.items():
        file = tmp_path / "mutants" / "relay_passes" / f"{name}.py.meta"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"exit_code_by_key": codes}))
    assert script.results("planner") == {"a": 1, "b": None}
    assert script.results("split") == {"c": 0}


@pytest.mark.nightly
def test_a_sample_of_mutants():
    if importlib.util.find_spec("mutmut") is None:
        pytest.skip("mutmut is not installed: pip install 'hetero-tvm[mutants]'")
    words = [sys.executable, str(ROOT / "scripts" / "mutants.py"), "--sample", "150"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
