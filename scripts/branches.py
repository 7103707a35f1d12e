"""What of a package's lines and branches was reached, file by file where some is missing.

python scripts/branches.py DATA PACKAGE

DATA: what `coverage` has written. A branch is one way on from a line that has several.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path


def main(data: str, package: str) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "report.json"
        options = ["-q", f"--data-file={data}", f"--include={package}/*", "-o", str(file)]
        subprocess.run([sys.executable, "-m", "coverage", "json", *options], check=True)
        report = json.loads(file.read_text())
    for name, about in sorted(report["files"].items()):
        missing = about["missing_lines"], about["missing_branches"]
        if any(missing):
            branches = " ".join(f"{start}->{end}" for start, end in missing[1])
            print(f"{name}: lines {missing[0]} branches {branches}")
    total = report["totals"]
    for what in ("branches", "lines"):
        covered = total["covered_branches" if what == "branches" else "covered_lines"]
        count = total["num_branches" if what == "branches" else "num_statements"]
        print(f"{package}: {covered} of {count} {what}, {covered / count:.1%}")


if __name__ == "__main__":
    main(*sys.argv[1:])
