"""Verb: is the second of two measurements of a model slower or larger than the first?"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hetero_tvm import cli
from hetero_tvm.errors import BadInput, NotComparable

EXAMPLES = """\
examples:
  hetero-tvm compare before.json after.json --threshold 3%
  hetero-tvm bench model.so --json > after.json && hetero-tvm compare before.json after.json

Files are those of `hetero-tvm bench --json`. Median time and peak memory decide; the rest is shown.
Two measurements are compared only where they are of one model, on one machine, and equally warm.

exit codes: 0 no worse, 1 worse by more than the threshold, 2 bad input or not comparable
"""
# name, where it stands, whether it decides
_METRICS: tuple[tuple[str, tuple[str, ...], bool], ...] = (
    ("p50 ms", ("times_ms", "p50"), True),
    ("mean ms", ("times_ms", "mean"), False),
    ("p90 ms", ("times_ms", "p90"), False),
    ("first run ms", ("first_run_ms",), False),
    ("load s", ("load_s",), False),
    ("peak memory bytes", ("peak_memory_bytes",), True),
    ("artefact bytes", ("artefact_bytes",), False),
)
_LLM_METRICS: tuple[tuple[str, tuple[str, ...], bool], ...] = (
    ("prefill p50 ms", ("llm", "prefill_ms", "p50"), True),
    ("decode p50 ms", ("llm", "decode_ms", "p50"), True),
)
_SAME = ("model_sha256", "target", "length", "simulated")
# Throttling begins by steps of a few degrees; readings of one sensor scatter by one or two.
_MOST_DEGREES_APART = 5.0
# Without a sensor: a minute of load and ten are not the same state, 2 s and 5 s are.
_MOST_LOAD_RATIO = 4.0
_SHORT_LOAD_S = 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `hetero-tvm compare`."""
    parser.add_argument("before", type=Path, help="of `hetero-tvm bench --json`")
    parser.add_argument("after", type=Path, help="the same, later")
    parser.add_argument(
        "--threshold", default="3%", help="how much worse is still fine (default 3%%)"
    )
    parser.add_argument(
        "--any-warmth", action="store_true", help="compare although one is hot and one is cold"
    )


def run(args: argparse.Namespace) -> int:
    """Compare and print; 1 where it got worse."""
    threshold = read_percentage(args.threshold)
    before, after = read_bench(args.before), read_bench(args.after)
    try:
        check_comparable(before, after, any_warmth=args.any_warmth)
        rows = [
            _metric(name, _at(before, path), _at(after, path), threshold if decides else None)
            for name, path, decides in _metrics(before)
        ]
        noise = max(m["times_ms"]["sd"] / m["times_ms"]["p50"] for m in (before, after))
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError):
        raise NotComparable(
            f"{args.before}, {args.after}: damaged, or changed by hand; measure again"
        ) from None
    worse = [row["name"] for row in rows if row["worse"]]
    data = {
        "before": str(args.before),
        "after": str(args.after),
        "threshold": threshold,
        "metrics": rows,
        "worse": worse,
        "spread": noise,
        "held": not worse,
    }
    if args.json:
        cli.emit_json("compare", data)
    else:
        cli.emit(_text(data))
    return 1 if worse else 0


def read_percentage(text: str) -> float:
    """0.03 for `3%` or `0.03`; at least 0.

    Raises:
        BadInput: anything else.
    """
    try:
        share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share < float("inf"):
        raise BadInput(f"--threshold {text}: write a share of at least 0, as in 3% or 0.03")
    return share


def read_bench(path: Path) -> dict[str, Any]:
    """The measurement in a file.

    Raises:
        BadInput: no such file, or not of `bench --json` of this version.
    """
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else "is not JSON"
        raise BadInput(
            f"{path}: {why}; make it with `hetero-tvm bench ARTEFACT --json > FILE`"
        ) from None
    if not isinstance(data, dict) or data.get("verb") != "bench":
        raise NotComparable(f"{path}: is not of `hetero-tvm bench ARTEFACT --json > FILE`")
    if data.get("schema_version") != cli.SCHEMA_VERSION:
        raise NotComparable(
            f"{path}: schema version {data.get('schema_version')}, this program reads "
            f"{cli.SCHEMA_VERSION}; measure again"
        )
    return data


def check_comparable(
    before: Mapping[str, Any], after: Mapping[str, Any], *, any_warmth: bool
) -> None:
    """Refuse what would compare apples with pears.

    Raises:
        BadInput: another model, target, machine or warmth.
    """
    for key in _SAME:
        if before[key] != after[key]:
            raise NotComparable(f"not comparable: {key} is {before[key]} and {after[key]}")
    if (before["llm"] is None) is not (after["llm"] is None):
        raise NotComparable("not comparable: only one is of a language model")
    for key in ("prompt_tokens", "generated_tokens") if before["llm"] else ():
        if before["llm"][key] != after["llm"][key]:
            raise NotComparable(
                f"not comparable: {key} is {before['llm'][key]} and {after['llm'][key]}"
            )
    if before["machine"] != after["machine"]:
        differing = [
            f"{key} is {before['machine'].get(key)} and {after['machine'].get(key)}"
            for key in {**before["machine"], **after["machine"]}
            if before["machine"].get(key) != after["machine"].get(key)
        ]
        raise NotComparable(f"not comparable, another machine: {', '.join(differing)}")
    why = _warmth_differs(before["thermal"], after["thermal"])
    if why is not None and not any_warmth:
        raise NotComparable(f"not comparable: {why}; measure both alike, or say --any-warmth")


def _warmth_differs(before: Mapping[str, Any], after: Mapping[str, Any]) -> str | None:
    """Why one was measured cold and the other hot; None where they are alike."""
    first, second = before["end"]["hottest_c"], after["end"]["hottest_c"]
    if first is not None and second is not None:
        if abs(first - second) <= _MOST_DEGREES_APART:
            return None
        return f"measured at {first:.0f} °C and at {second:.0f} °C"
    short, long = sorted((before["loaded_s"], after["loaded_s"]))
    if long <= _SHORT_LOAD_S or long <= _MOST_LOAD_RATIO * short:
        return None
    return f"measured after {short:.0f} s and after {long:.0f} s of load, no sensor shows warmth"


def _metrics(data: Mapping[str, Any]) -> tuple[tuple[str, tuple[str, ...], bool], ...]:
    if data["llm"] is None:
        return _METRICS
    return _METRICS + (_LLM_METRICS if data["llm"]["decode_ms"] else _LLM_METRICS[:1])


def _at(data: Mapping[str, Any], path: tuple[str, ...]) -> float:
    value: Any = data
    for key in path:
        value = value[key]
    return float(value)


def _metric(name: str, before: float, after: float, threshold: float | None) -> dict[str, Any]:
    """`threshold` None: it does not decide."""
    ratio = after / before if before else float("inf") if after else 1.0
    worse = threshold is not None and ratio > 1 + threshold
    return {
        "name": name,
        "before": before,
        "after": after,
        "ratio": ratio,
        "decides": threshold is not None,
        "worse": worse,
    }


def _text(data: Mapping[str, Any]) -> str:
    lines = [f"{'':<19}{'before':>14}{'after':>14}{'change':>9}"]
    for row in data["metrics"]:
        number = "{:>14,.3f}" if row["before"] < 1e5 else "{:>14,.0f}"
        mark = "  WORSE" if row["worse"] else "" if row["decides"] else "  (shown only)"
        lines.append(
            f"{row['name']:<19}{number.format(row['before'])}{number.format(row['after'])}"
            f"{row['ratio'] - 1:>+9.1%}{mark}"
        )
    if data["spread"] > data["threshold"]:
        lines.append(
            f"single runs scatter by {data['spread']:.0%}, more than the threshold: "
            "measure longer before you trust a small change"
        )
    threshold = f"{data['threshold']:.1%}"
    lines.append(
        f"worse by more than {threshold}: {', '.join(data['worse'])}"
        if data["worse"]
        else f"no worse than {threshold}"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(cli.verb_main("compare"))
