"""How many small faults in planner and split the tests notice: mutation testing with mutmut.

    python scripts/mutants.py [--part planner|split] [--sample 250] [--seed 0] [--least 85]

mutmut changes one thing at a time in the functions of `relay_passes/planner` and
`relay_passes/split_tensor.py` (a constant, an operator, an argument), and runs those tests of
`[tool.mutmut]` that reach it. A seeded sample of all mutants is tried; the share that is noticed
is given with its 95 % interval (Wilson). What is tried stays in build/mutants and is not tried
again: a run that was interrupted goes on, a larger sample tries only what is new. A mutant that
ends no test in time counts as noticed, one that makes the process crash does not. Exit code 1
where fewer than `--least` per cent are noticed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "mutants"
PARTS = {"planner": "relay_passes/planner", "split": "relay_passes/split_tensor.py"}
_SMALL = "relay_passes.planner.repeat.*"  # to have all mutants written, and the tests timed
# Of pytest's and mutmut's exit codes; all else (0: every test passed, 33: no test) is not noticed.
_FAILED = (1, 3)
_TIMEOUTS = (-24, 24, 36, 152)
_ROUND = 25  # mutants a process: what one that dies takes along


def copied() -> None:
    """The sources of now in `WORK`; files that are as before keep their time."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    names = [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    names += [str(path.relative_to(ROOT)) for path in (ROOT / "hetero_tvm/lib").iterdir()]
    for name in names:
        source, target = ROOT / name, WORK / name
        if not target.exists() or target.read_bytes() != source.read_bytes():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)


def mutmut(*mutants: str) -> None:
    """Try these."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-m", "mutmut", "run", "--max-children", "1", *mutants]
    log = WORK / "mutmut.log"
    with log.open("w") as out:
        done = subprocess.run(command, cwd=WORK, env=env, stdout=out, stderr=out, check=False)
    if done.returncode:
        sys.exit(f"mutmut failed ({done.returncode}); see {log}")


def results(part: str) -> dict[str, int | None]:
    """Each mutant's exit code: 0 where no test failed, None where it was not tried."""
    found: dict[str, int | None] = {}
    for file in sorted((WORK / "mutants" / "relay_passes").rglob("*.meta")):
        if str(file.relative_to(WORK / "mutants")).startswith(PARTS[part]):
            found |= json.loads(file.read_text())["exit_code_by_key"]
    return found


def interval(successes: int, count: int) -> tuple[float, float]:
    """Wilson's, of 95 %."""
    z, p = 1.96, successes / count
    middle = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return middle - half, middle + half


def main() -> int:
    """Try a sample and print what came of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--part", choices=PARTS, action="append", help="default: both")
    parser.add_argument("--sample", type=int, default=250, help="mutants of each part; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--least", type=float, default=85.0, metavar="PER_CENT")
    args = parser.parse_args()
    copied()
    mutmut(_SMALL)
    enough = True
    for part in args.part or PARTS:
        names = sorted(results(part))
        random.Random(args.seed).shuffle(names)
        sample = names[: args.sample or None]
        left = [name for name in sample if results(part)[name] is None]
        while left:
            print(f"{part}: {len(left)} of {len(sample)} mutants left", file=sys.stderr)
            mutmut(*left[:_ROUND])
            left = left[_ROUND:]
        codes = {name: results(part)[name] for name in sample}
        survived = sorted(n for n, code in codes.items() if code not in _FAILED + _TIMEOUTS)
        late = sum(code in _TIMEOUTS for code in codes.values())
        noticed = len(sample) - len(survived)
        low, high = interval(noticed, len(sample))
        print(
            f"{part}: {noticed} of {len(sample)} mutants noticed ({late} by time), "
            f"{noticed / len(sample):.1%} (95 %: {low:.1%} to {high:.1%}), of {len(names)} in all"
        )
        for name in survived:
            print(f"  survived: {name}")
        enough &= noticed >= args.least / 100 * len(sample)
    return 0 if enough else 1


if __name__ == "__main__":
    sys.exit(main())
