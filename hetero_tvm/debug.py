"""Verb: find the first layer whose numbers leave the model's, and what to keep more exact."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hetero_tvm import cli, workload_arguments
from hetero_tvm.errors import AnotherModel, BadInput, LengthNotBuilt

if TYPE_CHECKING:
    from hetero_tvm.loader import Model
    from hetero_tvm.output_error import OutputError
    from hetero_tvm.probe import Probed

EXAMPLES = """\
examples:
  hetero-tvm debug encoder.so --against encoder.onnx
  hetero-tvm debug detector.so --against detector.onnx --inputs x=image.npy --json
  hetero-tvm debug encoder.so --against encoder.onnx --tolerance 1e-3 -v     every call

Runs the artefact once and compares what every kernel and NPU region wrote with ONNX Runtime's value
of that operator, in whatever layout it lies.

exit codes: 0 all held, 1 something did not, 2 bad input, 3 something is missing, 4 device
"""
_ROWS = 12
_ROUNDING, _HALF_ROUNDING = 2.0**-24, 2.0**-11


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `hetero-tvm debug`."""
    workload_arguments.add_artefact(parser)
    parser.add_argument(
        "--against", type=Path, metavar="ONNX", required=True, help="the model that it was built of"
    )
    workload_arguments.add_inputs(parser)
    parser.add_argument(
        "--tolerance",
        type=float,
        help="relative error that holds (default 1e-4; 1e-2 where the arithmetic is float16)",
    )


def run(args: argparse.Namespace) -> int:
    """Run once under the probe, print, judge."""
    from hetero_tvm import loader, runtime
    from hetero_tvm.output_error import compare
    from hetero_tvm.probe import first_bad, suspects
    from hetero_tvm.run import complete_inputs, default_tolerance, read_inputs

    if args.seed < 0:
        raise BadInput(f"--seed {args.seed}: at least 0")
    if args.tolerance is not None and not args.tolerance >= 0:
        raise BadInput(f"--tolerance {args.tolerance}: at least 0")
    if args.device is not None:
        runtime.configure(opencl_device=args.device)
    given = read_inputs(args.inputs)
    model = loader.load(args.artefact)
    tolerance = default_tolerance(model.manifest)
    if args.tolerance is not None:
        tolerance = dataclasses.replace(tolerance, relative_error=args.tolerance)
    inputs = complete_inputs(given, model.manifest, args.seed, args.length)
    found, unknown, outputs, wanted = probe_model(model, args.against, inputs, tolerance)
    errors = compare(outputs, wanted, tolerance)
    bad = first_bad(found)
    grown = suspects(found)
    held = not bad and all(error.held for error in errors)
    advice = _advice(model, grown)
    if args.json:
        cli.emit_json(
            "debug",
            {
                "artefact": str(args.artefact),
                "against": str(args.against),
                "tolerance": tolerance.relative_error,
                "compared": len(found),
                "not_compared": unknown,
                "first_bad": {device: dataclasses.asdict(p) for device, p in bad.items()},
                "suspects": [dataclasses.asdict(p) for p in grown],
                "advice": advice,
                "results": [dataclasses.asdict(p) for p in found],
                "outputs": [dataclasses.asdict(error) for error in errors],
                "held": held,
            },
        )
    else:
        rows = found if args.verbose else _interesting(found)
        cli.emit(_text(rows, found, unknown, bad, grown, errors, advice, tolerance.relative_error))
    return 0 if held else 1


def probe_model(
    model: Model, against: Path, inputs: Mapping[str, np.ndarray], tolerance: Any
) -> tuple[list[Probed], int, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(what was compared, how much was not, the outputs, ONNX Runtime's outputs).

    Raises:
        BadInput: another model than the artefact's, or a length that is filled up or cut.
    """
    import tvm_ffi

    from hetero_tvm import frontend
    from hetero_tvm.frontend.input_specs import InputSpec
    from hetero_tvm.frontend.self_check import intermediates
    from hetero_tvm.output_error import FLOAT16
    from hetero_tvm.probe import Probe
    from hetero_tvm.run import default_tolerance
    from relay_passes.plan import Plan
    from relay_passes.program import read_program

    manifest = model.manifest
    fed = model.feed(inputs)
    function, border, plan = "main", manifest.inputs, manifest.plan
    if fed.way is not None:
        if len(fed.way) != 1 or fed.way[0].size != fed.way[0].length:
            built = ", ".join(map(str, model.lengths))
            raise LengthNotBuilt(
                f"inputs that are filled up or cut: use a built --length, of {built}"
            )
        (variant,) = (v for v in manifest.variants if v.length == fed.way[0].length)
        function, border, plan = variant.function, variant.inputs, variant.plan
    imported = frontend.import_model(
        against,
        input_shapes={spec.name: InputSpec(name=spec.name, shape=spec.shape) for spec in border},
        check=False,
    )
    if imported.sha256 != manifest.model_sha256:
        raise AnotherModel(
            f"{against} is not the model that the artefact was built of "
            f"({manifest.model_name}, sha256 {manifest.model_sha256[:12]}…)"
        )
    truth = intermediates(imported.onnx_model, inputs)
    probe = Probe(
        manifest.calls[function],
        Plan.from_json(json.dumps(plan)),
        {name: truth[value] for name, value in imported.tensor_of.items() if value in truth},
        {node.name: node.inputs for node in read_program(imported.mod)},
        tolerance,
        # Where float16 is the arithmetic, its tolerance is the default.
        _HALF_ROUNDING if default_tolerance(manifest) is FLOAT16 else _ROUNDING,
    )
    model.instrument(tvm_ffi.convert(probe))
    try:
        outputs = model.fetch(model.call(fed))
    finally:
        model.instrument(None)
    wanted = {spec.name: truth[spec.name] for spec in imported.outputs}
    return probe.found, probe.unknown, outputs, wanted


def _advice(model: Model, grown: Sequence[Probed]) -> list[str]:
    """What to keep at higher precision, in words; nothing where all held."""
    if not grown:
        return []
    lines = []
    for probed in grown:
        what = (
            f"{probed.op.removeprefix('relax.')} {probed.operator} on the {probed.device.upper()}"
        )
        if probed.read_error == 0:
            lines.append(
                f"{what} makes an error of {probed.relative_error:.1e} out of exact inputs"
            )
        else:
            lines.append(f"{what} passes errors on {probed.gain:.1f}-fold")
    devices = {probed.device for probed in grown if not probed.held} or {grown[0].device}
    if model.manifest.dtype == "float16":
        lines.append("keep these in float32: build with --dtype float32")
    elif devices == {"npu"} and model.manifest.npu_provider == "qnn":
        flags = " ".join(f"--off-npu {name}" for name in dict.fromkeys(p.operator for p in grown))
        lines.append(f"the NPU computes in float16: build with {flags}")
    else:
        lines.append(
            "this artefact computes in float32: look for a wrong kernel, with --devices "
            + ("gpu" if devices == {"npu"} else "npu")
            + " and another --device beside it"
        )
    return lines


def _interesting(found: Sequence[Probed]) -> list[Probed]:
    """The calls around the first bad one; of an artefact that holds, the worst."""
    bad = next((i for i, probed in enumerate(found) if not probed.held), None)
    if bad is not None:
        return list(found[max(0, bad - _ROWS // 2) : bad + _ROWS // 2])
    worst = sorted(found, key=lambda probed: -probed.relative_error)[:_ROWS]
    return sorted(worst, key=lambda probed: probed.position)


def _text(
    rows: Sequence[Probed],
    found: Sequence[Probed],
    unknown: int,
    bad: Mapping[str, Probed],
    grown: Sequence[Probed],
    errors: Sequence[OutputError],
    advice: Sequence[str],
    tolerance: float,
) -> str:
    lines = [
        f"{len(found)} results of kernels and regions compared with ONNX Runtime, {unknown} "
        f"without a value of the model's to compare with; {tolerance:g} relative holds",
        "",
        f"{'call':>5} {'device':<7}{'operator':<20}{'relative':>10}{'gain':>8}  name",
    ]
    for row in rows:
        gain = f"{row.gain:.1f}x"
        lines.append(
            f"{row.position:>5} {row.device:<7}{row.op.removeprefix('relax.')[:19]:<20}"
            f"{row.relative_error:>10.1e}{gain:>8}  {row.operator[-60:]}"
            + (f" ({row.part})" if row.part else "")
            + ("" if row.held else "  FAILED")
        )
    lines.append("")
    for device, probed in bad.items():
        lines.append(
            f"first on the {device.upper()}: call {probed.position}, {probed.operator}, off by "
            f"{probed.relative_error:.1e}"
        )
    if not bad:
        lines.append("every result held")
    for error in errors:
        lines.append(
            f"output {error.name}: off by {error.relative_error:.1e}"
            + ("" if error.held else "  FAILED")
        )
    if grown:
        lines += ["", "What to keep more exact:", *(f"  {line}" for line in advice)]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(cli.verb_main("debug"))
