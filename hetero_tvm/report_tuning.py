"""A database of tuned kernels, as data, as text and as a picture."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

from hetero_tvm.errors import BadOutputPath, MissingPackage, TuningDbUnusable
from schedules.tuned import gain_text
from schedules.tuning_db import TuningDb
from schedules.tuning_records import Kernel, Standing

_CURVES = 12  # of a picture: the kernels with the most trials


def rows(db: TuningDb) -> list[dict[str, Any]]:
    """Every kernel on every device, the most tried first."""
    kernels = db.kernels()
    found = [
        row(kernels[key], standing)
        for (key, _), standing in db.standings().items()
        if key in kernels
    ]
    return sorted(found, key=lambda one: (-one["trials"], one["kernel"]))


def row(kernel: Kernel, standing: Standing, calls: int | None = None) -> dict[str, Any]:
    """One kernel on one device: plain data; times in µs."""
    best, race = standing.best(), standing.race
    best_s, default_s = best[1] if best else None, standing.default_s
    if race is not None:
        best_s, default_s = race.seconds, race.default
    found: dict[str, Any] = {
        "kernel": kernel.key,
        "name": kernel.name,
        "shapes": kernel.shapes,
        "device": standing.where.device,
        "driver": standing.where.driver,
        "limits": standing.where.limits,
        "trials": len(standing.trials),
        "failed": standing.failed,
        "default_us": None if default_s is None else default_s * 1e6,
        "default_good": standing.default_good,
        "best_us": None if best_s is None else best_s * 1e6,
        "gain": standing.gain,
        "gain_low": None if race is None else race.low,
        "gain_high": None if race is None else race.high,
        "state": "verified" if best else "default",
        "used": standing.is_better,
        "sketch": best[0].sketch if best else None,
        "choices": best[0].as_dict if best else None,
        "quarantined": [
            {"sketch": choice.sketch, "choices": choice.as_dict, "why": why}
            for choice, why in standing.quarantined()
        ],
    }
    if not standing.default_good:
        found["default_why"] = standing.default_reason
    if calls is not None:
        found["calls"] = calls
    return found


def table(found: list[dict[str, Any]], *, verbose: bool) -> str:
    """`rows` for people."""
    if not found:
        return "no kernel is recorded"
    lines = [
        f"{'kernel':<30}{'shapes':<34}{'default µs':>11}{'best µs':>10}  {'gain':<22}"
        f"{'trials':>8}{'failed':>8}  state"
    ]
    where = ""
    for one in found:
        here = f"{one['device']}, driver {one['driver']}, {one['limits']}"
        if here != where:
            where = here
            lines.append(where)
        state = one["state"] if one["default_good"] else f"default is wrong: {one['default_why']}"
        if one["state"] == "verified" and not one["used"]:
            state += ", not surely faster: not used"
        bad = one["quarantined"]
        if bad:
            state += f", {len(bad)} quarantined ({bad[0]['why']})"
        lines.append(
            f"{one['name'][:29]:<30}{one['shapes'][:33]:<34}{_number(one['default_us']):>11}"
            f"{_number(one['best_us']):>10}  {_gain(one):<22}"
            f"{one['trials']:>8}{one['failed']:>8}  {state}"
        )
        if verbose:
            lines.append(f"    {one['kernel']}  {one['sketch'] or '-'} {one['choices'] or ''}")
            lines += [f"    quarantined: {b['sketch']} {b['choices']}: {b['why']}" for b in bad]
    return "\n".join(lines)


def draw(path: Path, db: TuningDb) -> None:
    """How the best time of each kernel fell, trial by trial, over the default's time.

    Raises:
        BadInput: the file cannot be written, or nothing was measured.
        EnvironmentProblem: matplotlib is not installed.
    """
    if path.suffix != ".png":
        raise BadOutputPath(f"--plot {path}: name a .png file")
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingPackage("matplotlib is not installed; run: pip install 'hetero-tvm[plot]'")
    from matplotlib.figure import Figure

    kernels = db.kernels()
    searches = [
        (kernels[key], standing)
        for (key, _), standing in db.standings().items()
        if key in kernels and standing.trials and standing.default_s
    ]
    if not searches:
        raise TuningDbUnusable("--plot: the database has no trial")
    searches.sort(key=lambda pair: -len(pair[1].trials))
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.add_subplot()
    for kernel, standing in searches[:_CURVES]:
        best, curve = math.inf, []
        wrong = {choice for choice, _ in standing.quarantined()}
        for choice, seconds in standing.trials:
            best = min(best, math.inf if choice in wrong else seconds)
            assert standing.default_s is not None
            curve.append(standing.default_s / best if math.isfinite(best) else math.nan)
        axes.step(range(1, len(curve) + 1), curve, where="post", label=f"{kernel.name[:40]}")
    axes.axhline(1.0, color="grey", linewidth=0.8)
    axes.set_xlabel("trials")
    axes.set_ylabel("default's time / best time so far (measured)")
    axes.set_title("Search for schedules")
    axes.legend(fontsize=7)
    try:
        figure.savefig(path, dpi=130)
    except OSError as error:
        raise BadOutputPath(f"--plot {path}: {error.strerror}") from None


def _gain(one: dict[str, Any]) -> str:
    if one["gain"] is None:
        return "-"
    ends = (one["gain_low"], one["gain_high"])
    return gain_text(one["gain"], ends if None not in ends else None)


def _number(value: float | None, digits: int = 1) -> str:
    if value is None:
        return "-"
    return "inf" if math.isinf(value) else f"{value:.{digits}f}"
