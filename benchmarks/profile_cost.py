"""What recording costs: the same runs with `profile`'s recording on and off.

    python benchmarks/profile_cost.py [--rounds 30] [--runs 10] [--json] [ARTEFACT.so ...]

Rounds alternate, off on off on …, in one process; a round is `--runs` runs, each timed by itself,
after one that sets recording up. What is said is the ratio of the medians of all runs. Of each pair
of neighbouring rounds the ratio is taken too; its quartiles show how far to trust it. `off` has
the runtime's recording compiled in, as everybody has, and not switched on. Without artefacts:
MiniLM for the host, on both devices, and on the GPU alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "examples"))
from models import fetch  # noqa: E402

import hetero_tvm  # noqa: E402
from hetero_tvm.loader import Model, load  # noqa: E402
from hetero_tvm.run import complete_inputs  # noqa: E402

WARM_UP = 5
MARK = 1.03


def cost(name: str, model: Model, rounds: int, runs: int) -> dict[str, Any]:
    """One artefact, as a row."""
    fed = model.feed(complete_inputs({}, model.manifest, seed=0))
    model.measure(fed, WARM_UP)
    off: list[list[float]] = []
    on: list[list[float]] = []
    events = 0
    for _ in range(rounds):
        off.append(model.measure(fed, runs)[1])
        recording = model.record(fed, runs)
        on.append([(end - start) / 1e6 for start, end in recording.bounds])
        if recording.lost:
            raise SystemExit(f"{name}: {recording.lost} events were lost; fewer --runs")
        events = len(recording.events) // (runs + 1)
    pairs = [statistics.median(b) / statistics.median(a) for a, b in zip(off, on, strict=True)]
    quartiles = statistics.quantiles(pairs, n=4)
    plain = statistics.median(ms for block in off for ms in block)
    recorded = statistics.median(ms for block in on for ms in block)
    return {
        "case": name,
        "off_ms": plain,
        "on_ms": recorded,
        "ratio": recorded / plain,
        "pair_median": quartiles[1],
        "pair_quartiles": [quartiles[0], quartiles[2]],
        "events_per_run": events,
        "held": recorded / plain <= MARK,
    }


def artefacts(paths: list[Path], folder: Path) -> Iterator[tuple[str, Path]]:
    """Those that were named, or MiniLM in two ways."""
    yield from ((path.name, path) for path in paths)
    if paths:
        return
    for name, devices in (("MiniLM, both", "gpu+npu"), ("MiniLM, GPU", "gpu")):
        path = folder / f"{devices}.so"
        hetero_tvm.build(
            fetch("minilm"),
            target="host",
            inputs={"input_ids": (1, 128), "attention_mask": (1, 128)},
            devices=devices,
            output=path,
            measure=False,
        )
        yield name, path


def main() -> int:
    """Print a table, or JSON; 1 where recording costs more than the mark."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("artefacts", type=Path, nargs="*")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--runs", type=int, default=10, help="a round")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hetero-profile-cost-") as folder:
        rows = [
            cost(name, load(path), args.rounds, args.runs)
            for name, path in artefacts(args.artefacts, Path(folder))
        ]
    if args.json:
        print(json.dumps({"mark": MARK, "rows": rows}, indent=2))
    else:
        print(f"{'case':<24}{'off ms':>9}{'on ms':>9}{'ratio':>8}{'pairs':>8}  quartiles   events")
        for row in rows:
            low, high = row["pair_quartiles"]
            print(
                f"{row['case']:<24}{row['off_ms']:>9.3f}{row['on_ms']:>9.3f}{row['ratio']:>8.3f}"
                f"{row['pair_median']:>8.3f}  {low:.3f} {high:.3f} {row['events_per_run']:>7}"
            )
    return 0 if all(row["held"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
