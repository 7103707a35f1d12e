"""All that the report of an artefact shows, as plain data for its page.

The manifest has the plan and the calls, the record of the build the rest; a profile, where one is
given, what was measured. Nothing is computed anew here, and no code of the artefact is loaded.
"""

from __future__ import annotations

import collections
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hetero_tvm import __version__, build_record, loader
from hetero_tvm.bundle import Manifest
from hetero_tvm.errors import BadInput
from hetero_tvm.graph_layout import layout
from hetero_tvm.lanes import is_lanes
from hetero_tvm.typed_json import from_object
from relay_passes.calls import Call, OpPart, parts_of
from relay_passes.plan import OpPlan, Plan

_MOST_PROFILE_BYTES = 512 << 20
_BOX_WIDTH, _BOX_HEIGHT = 168.0, 44.0  # of an operator, in pixels where nothing is zoomed
_BORDER_WIDTH = 110.0  # of what stands for the model's inputs and outputs
_USE = ("kernel", "operators", "schedule", "why", "device", "driver", "gain", "sketch", "choices")
_INPUTS, _OUTPUTS = "inputs", "outputs"  # operators begin with "op:"


def report_data(
    path: Path, manifest: Manifest, profile: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, str]]:
    """(all but sources, kernel -> its OpenCL C).

    Args:
        path: the artefact.
        manifest: its description.
        profile: what `read_profile` gave for it; None shows predictions alone.

    Raises:
        BadInput: the artefact has no record, or one that cannot be read.
    """
    if not manifest.record:
        raise BadInput(
            f"{path}: was built without a record of its build; build it again with this version"
        )
    try:
        record = build_record.unpack(manifest.record)
    except ValueError as error:
        raise BadInput(f"{path}: {error}; build it again") from None
    kernels: dict[str, str] = record["kernels"]
    plans: dict[str, tuple[int | None, dict[str, Any]]] = {
        v.function: (v.length, v.plan) for v in manifest.variants
    } or {"main": (None, manifest.plan)}
    return {
        "version": __version__,
        "artefact": {
            "name": path.name,
            "bytes": path.stat().st_size,
            "sha256": manifest.library_sha256,
            "weights_bytes": manifest.weights.nbytes if manifest.weights else None,
        },
        "model": {"name": manifest.model_name, "sha256": manifest.model_sha256},
        "target": {
            "name": manifest.target,
            "soc": manifest.soc,
            "htp_arch": manifest.htp_arch,
            "npu_provider": manifest.npu_provider,
            "host": f"{manifest.os} on {manifest.host}",
            "simulated_here": loader.is_simulated(manifest),
        },
        "dtype": manifest.dtype,
        "versions": manifest.versions,
        "inputs": [_tensor(spec) for spec in manifest.inputs],
        "outputs": [_tensor(spec) for spec in manifest.outputs],
        "lengths": _lengths(manifest),
        "is_language_model": manifest.llm is not None,
        "tuning": _tuning(manifest),
        "functions": [
            _function(name, length, plan, manifest, record, kernels, profile)
            for name, (length, plan) in plans.items()
        ],
        "kernel_names": list(kernels),
        "profile": _profile_totals(profile),
    }, kernels


def read_profile(path: Path, manifest: Manifest) -> dict[str, Any]:
    """What `hetero-tvm profile` recorded of the artefact: its `--json`, or its `--trace`.

    Raises:
        BadInput: no such file, something else, or recorded of another artefact.
    """
    how = "make it with `hetero-tvm profile ARTEFACT --json > FILE` or `--trace FILE`"
    try:
        if path.stat().st_size > _MOST_PROFILE_BYTES:
            raise BadInput(f"--profile {path}: too large to be a profile; {how}")
        found = json.loads(path.read_text())
    except OSError as error:
        raise BadInput(f"--profile {path}: {error.strerror or error}; {how}") from None
    except (ValueError, RecursionError):
        raise BadInput(f"--profile {path}: not JSON; {how}") from None
    if isinstance(found, dict) and "traceEvents" in found:
        found = (found.get("otherData") or {}).get("profile")
    if not isinstance(found, dict) or not {"summary", "functions", "runs"} <= found.keys():
        raise BadInput(f"--profile {path}: not what `hetero-tvm profile` writes; {how}")
    if found.get("library_sha256") != manifest.library_sha256:
        raise BadInput(
            f"--profile {path}: was recorded of another artefact ({found.get('artefact')}); {how}"
        )
    return found


def _tensor(spec: Any) -> dict[str, Any]:
    return {"name": spec.name, "shape": list(spec.shape), "dtype": spec.dtype}


def _lengths(manifest: Manifest) -> dict[str, Any] | None:
    rules = manifest.lengths
    if rules is None:
        return None
    return {"padding": rules.padding_words, "chunking": rules.chunking_words}


def _tuning(manifest: Manifest) -> list[dict[str, Any]] | None:
    """What every kernel uses; None where no database of tuned kernels was given."""
    return [{key: use[key] for key in _USE if key in use} for use in manifest.kernels] or None


def _function(
    name: str,
    length: int | None,
    raw_plan: Mapping[str, Any],
    manifest: Manifest,
    record: Mapping[str, Any],
    kernels: Iterable[str],
    profile: Mapping[str, Any] | None,
) -> dict[str, Any]:
    plan, calls = _plan_and_calls(manifest, name, raw_plan)
    known = record["functions"].get(name, {})
    parts = {part.name: part for op in plan.ops for part in parts_of(op)}
    whole_of = {part.name: op.name for op in plan.ops for part in parts_of(op)}
    measured = _measured(name, calls, profile, whole_of)
    calls_of: dict[str, list[int]] = collections.defaultdict(list)
    for number, call in enumerate(calls):
        for operator in dict.fromkeys(whole_of.get(one, one) for one in call.operators):
            calls_of[operator].append(number)
    by_name = {op.name: op for op in plan.ops}
    kernels_of = _kernels_by_symbol(kernels)
    return {
        "name": name,
        "length": length,
        "totals": known.get("totals"),
        "modes": known.get("modes", {}),
        "measured_modes_us": dict(plan.measured_us),
        "predicted_us": plan.predicted_us,
        "objective": plan.objective,
        "waits": [
            {"waiter": w.waiter, "on": w.on, "before": w.before, "us": w.us} for w in plan.waits
        ],
        "figures": known.get("figures", []),
        "waiting": known.get("waiting", {}),
        "npu_regions": known.get("npu_regions"),
        "operators": [
            _operator(op, known.get("operators", {}).get(op.name, {}), calls_of[op.name], measured)
            for op in plan.ops
        ],
        "calls": [
            {
                "symbol": call.symbol,
                "device": call.device,
                "operators": [whole_of.get(one, one) for one in call.operators],
                "serves": call.serves,
                "macs": call.macs,
                "bytes": call.bytes,
                "kernels": kernels_of.get(call.symbol, []),
                "predicted_us": _predicted(call, by_name, parts),
                "measured": measured.calls[number] if measured.calls else None,
            }
            for number, call in enumerate(calls)
        ],
        "memory": record["memory"].get(name),
        "drawing": _drawing(plan, known.get("operators", {})),
        "measured": measured.calls is not None,
        "timeline": {"predicted": known.get("timeline"), "measured": measured.timeline},
    }


def _plan_and_calls(
    manifest: Manifest, name: str, raw_plan: Mapping[str, Any]
) -> tuple[Plan, Sequence[Call]]:
    """Both as their types say; BadInput where the artefact's are otherwise."""
    try:
        plan = from_object(Plan, raw_plan, "plan.")
        calls = manifest.calls[name]
    except (KeyError, ValueError) as error:
        raise BadInput(
            f"the artefact's plan of {name} is not what this version writes ({error}); "
            "build it again"
        ) from None
    splits = [op.split for op in plan.ops if op.split is not None]
    splits += [offer.split for op in plan.ops for offer in op.offers]
    if any(not 0 < split.at < split.extent for split in splits):
        raise BadInput(f"the artefact's plan of {name} splits nothing; build it again")
    return plan, calls


def _drawing(plan: Plan, known: Mapping[str, Any]) -> dict[str, Any]:
    """Where boxes and edges are drawn; inputs and outputs of the model are boxes too."""
    widths: dict[str, float] = {}
    edges: list[tuple[str, str]] = []
    facts = {op.name: known.get(op.name, {}) for op in plan.ops}
    if any(fact.get("from_model_input") for fact in facts.values()):
        widths[_INPUTS] = _BORDER_WIDTH
    for name, fact in facts.items():
        operands = [one for one in fact.get("inputs", []) if f"op:{one}" in widths]
        edges += [(f"op:{one}", f"op:{name}") for one in operands]
        if fact.get("from_model_input"):
            edges.append((_INPUTS, f"op:{name}"))
        widths[f"op:{name}"] = _BOX_WIDTH
    outputs = [name for name, fact in facts.items() if fact.get("is_output")]
    if outputs:
        widths[_OUTPUTS] = _BORDER_WIDTH
        edges += [(f"op:{name}", _OUTPUTS) for name in outputs]
    found = layout(widths, edges, _BOX_HEIGHT)
    number = {name: at for at, name in enumerate(widths)}
    return {
        "box": [_BOX_WIDTH, _BOX_HEIGHT],
        "nodes": [
            {
                "name": name.removeprefix("op:"),
                "border": name in (_INPUTS, _OUTPUTS),
                "at": found.at[name],
            }
            for name in widths
        ],
        "edges": [[number[a], number[b], points] for (a, b), points in found.ways.items()],
        "size": [found.width, found.height],
    }


def _predicted(call: Call, ops: Mapping[str, OpPlan], parts: Mapping[str, OpPart]) -> float | None:
    """The sum of its operators' predictions; None for a call that has none."""
    found = [op.part_us(call.device) for name in call.operators if (op := ops.get(name))]
    found += [parts[name].us for name in call.operators if name in parts]
    return sum(found) if found else None


def _operator(
    op: OpPlan, known: Mapping[str, Any], calls: Sequence[int], measured: _Measured
) -> dict[str, Any]:
    split = None
    if op.split is not None:
        split = {
            "kind": op.split.kind,
            "axis": op.split.axis,
            "at": op.split.at,
            "extent": op.split.extent,
            "npu_share": op.split.npu_share,
            "us": dict(op.split_us),
        }
    return {
        "name": op.name,
        "op": op.op,
        "node": known.get("node", op.name),
        "device": op.device,
        "region": op.region,
        "split": split,
        "early": op.early_dict(),
        "reason": op.reason,
        "macs": op.macs,
        "bytes": known.get("bytes", 0),
        "weight_bytes": known.get("weight_bytes", 0),
        "tensors": known.get("tensors", []),
        "inputs": known.get("inputs", []),
        "from_model_input": known.get("from_model_input", False),
        "is_output": known.get("is_output", False),
        "cost_us": dict(op.cost_us),
        "part_us": {d: op.part_us(d) for d in ("npu", "gpu", "cpu") if op.share(d)},
        "rests": known.get("rests", {}),
        "offers": [
            {
                "kind": offer.split.kind,
                "axis": offer.split.axis,
                "at": offer.split.at,
                "extent": offer.split.extent,
                "us": dict(offer.us),
            }
            for offer in op.offers
        ],
        "declined": dict(op.declined),
        "calls": list(calls),
        "measured": measured.operators.get(op.name, {}),
    }


def _kernels_by_symbol(kernels: Iterable[str]) -> dict[str, list[str]]:
    """Symbol of a function -> its kernels: TVM puts `_kernel`, and a number, behind it."""
    found: dict[str, list[str]] = collections.defaultdict(list)
    for kernel in kernels:
        symbol = re.sub(r"_kernel(_\d+)?$", "", kernel)
        found[symbol].append(kernel)
    return found


class _Measured:
    """What a profile says of one function."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] | None = None
        self.operators: dict[str, dict[str, Any]] = {}
        self.timeline: dict[str, Any] | None = None  # of the whole run that was recorded


def _measured(
    name: str,
    calls: Sequence[Call],
    profile: Mapping[str, Any] | None,
    whole_of: Mapping[str, str],
) -> _Measured:
    found = _Measured()
    if profile is None or name not in profile["functions"]:
        return found
    try:
        rows = profile["summary"]["calls"]
        symbols = [row["call"]["symbol"] for row in rows]
        wanted = [call.symbol for call in calls]
        # A run may call several functions one after the other; this one's calls stand together.
        start = next(at for at in range(len(rows)) if symbols[at : at + len(wanted)] == wanted)
        keys = ("us", "gflops", "gbps", "of_limit", "limited_by")
        found.calls = [{key: row[key] for key in keys} for row in rows[start : start + len(wanted)]]
        if collections.Counter(profile["functions"]).most_common(1)[0][0] == name:
            for row in profile["summary"]["operators"]:
                said = {"us": row["us"], "apportioned": row["apportioned"]}
                found.operators.setdefault(row["name"], {})[row["device"]] = said
            if profile.get("timeline") is not None:
                found.timeline = _timeline(profile["timeline"], whole_of)
    except (KeyError, TypeError, StopIteration):
        raise BadInput(
            "the profile's calls are not those of the artefact; record it again"
        ) from None
    return found


def _timeline(recorded: Mapping[str, Any], whole_of: Mapping[str, str]) -> dict[str, Any]:
    """The recorded run, its operators by the names of the plan."""
    if not is_lanes(recorded):
        raise TypeError("not what `recorded_lanes` gives")
    lanes = {
        lane: [[*entry[:3], whole_of.get(entry[3], entry[3]), entry[4]] for entry in entries]
        for lane, entries in recorded["lanes"].items()
    }
    return {**recorded, "lanes": lanes}


def _profile_totals(profile: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if profile is None:
        return None
    summary = profile["summary"]
    keys = ("run_us", "busy_us", "overlap_us", "idle_us", "waits_us", "copied_bytes")
    return {
        "provenance": profile.get("provenance", "measured"),
        "runs": profile["runs"],
        "plain_run_us": profile.get("plain_run_us"),
        "functions": profile["functions"],
        **{key: summary.get(key) for key in keys},
    }
