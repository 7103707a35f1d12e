"""Rules that memory would not keep: import arrows, and a test for every module."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {  # package -> first-party packages it may import
    "target_specs": set(),
    "relay_passes": {"target_specs"},
    "schedules": {"target_specs"},
    "hetero_tvm": {"target_specs", "relay_passes", "schedules"},
}
# Entry points and pure data; whatever they do is seen through another module's test.
WITHOUT_TEST = {"__init__.py", "__main__.py", "config.py", "errors.py", "spec.py"}


def _first_party_imports(path):
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names & MAY_IMPORT.keys()


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_point_down(package):
    for path in (ROOT / package).rglob("*.py"):
        wrong = _first_party_imports(path) - MAY_IMPORT[package] - {package}
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_every_module_has_its_test(package):
    missing = [
        str(path.relative_to(ROOT))
        for path in (ROOT / package).rglob("*.py")
        if path.name not in WITHOUT_TEST
        and not (ROOT / "tests" / path.relative_to(ROOT)).with_name(f"test_{path.name}").is_file()
    ]
    assert not missing, f"no test of the same name for {missing}"


@pytest.mark.parametrize(
    "package", [*MAY_IMPORT, "runtime", "benchmarks", "examples", "docs", "tests"]
)
def test_every_folder_says_what_lives_there(package):
    text = (ROOT / package / "README.md").read_text()
    assert re.search(r"(?i)\badd\b", text), f"{package}/README.md does not say how to add one"


def test_no_branch_on_a_soc():
    """Hardware is data: no code compares a target's or a device's name."""
    pattern = re.compile(
        r"\b(soc|target_name|spec\.name|device_name)\s*(==|in|\.startswith)\s*['\"(\[]"
    )
    for package in MAY_IMPORT:
        for path in (ROOT / package).rglob("*.py"):
            assert not pattern.search(path.read_text()), path.relative_to(ROOT)
