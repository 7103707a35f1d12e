"""Verb: run an artefact, on given or seeded random inputs, and compare it with its ONNX model."""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hetero_tvm import cli, reference, workload_arguments
from hetero_tvm.arguments import add_device_arguments
from hetero_tvm.bundle import Manifest, whole_file
from hetero_tvm.errors import (
    AnotherModel,
    BadInput,
    BadOutputPath,
    CannotWrite,
    LengthNotBuilt,
    WrongTensors,
)
from hetero_tvm.lengths import words
from hetero_tvm.output_error import FLOAT16, FLOAT32, OutputError, Tolerance, compare

if TYPE_CHECKING:
    from hetero_tvm.loader import Model

EXAMPLES = """\
examples:
  hetero-tvm run encoder.so --compare encoder.onnx
  hetero-tvm run encoder.so --inputs batch.npz --save out.npz
  hetero-tvm run encoder.so --to ssh://me@board --compare encoder.onnx
  hetero-tvm run detector.so --inputs x=image.npy --compare detector.onnx --json

exit codes: 0 ran and held, 1 the comparison failed, 2 bad input, 3 something is missing, 4 device
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `hetero-tvm run`."""
    workload_arguments.add_artefact(parser)
    parser.add_argument("--compare", type=Path, metavar="ONNX", help="its model, for ONNX Runtime")
    workload_arguments.add_inputs(parser)
    parser.add_argument(
        "--repeat",
        type=int,
        help="timed runs after the first (default 10; none where the NPU is simulated)",
    )
    parser.add_argument("--save", type=Path, metavar="FILE.npz", help="write the outputs")
    parser.add_argument(
        "--tolerance",
        type=float,
        help="relative error that holds (default 1e-4; 1e-2 where the arithmetic is float16)",
    )
    parser.add_argument(
        "--allow-fallback",
        action="store_true",
        help="where the NPU or the GPU is missing, or the NPU is another one, what the artefact "
        "carries in its place may compute (build --with-fallback); it is said what and why",
    )
    parser.add_argument(
        "--npu-target",
        metavar="TARGET",
        help="of an artefact for several targets, the one whose NPU is simulated (default: the "
        "first)",
    )
    add_device_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run, print, compare."""
    from hetero_tvm import runtime
    from hetero_tvm.open_model import opened

    if args.repeat is not None and args.repeat < 0:
        raise BadInput(f"--repeat {args.repeat}: at least 0")
    if args.seed < 0:
        raise BadInput(f"--seed {args.seed}: at least 0")
    if args.tolerance is not None and not args.tolerance >= 0:  # NaN too
        raise BadInput(f"--tolerance {args.tolerance}: at least 0")
    if args.save is not None:
        check_save(args.save, [args.artefact, args.compare])
    given = read_inputs(args.inputs)
    if args.device is not None:
        workload_arguments.refuse_device_there(args.to)
        runtime.configure(opencl_device=args.device)
    with opened(
        args.artefact,
        args.to,
        args.root,
        allow_fallback=args.allow_fallback,
        npu_target=args.npu_target,
    ) as model:
        return _run(args, model, given)


def _run(args: argparse.Namespace, model: Model, given: dict[str, np.ndarray]) -> int:
    manifest = model.manifest
    inputs = complete_inputs(given, manifest, args.seed, args.length)

    repeat = args.repeat if args.repeat is not None else 0 if model.simulated else 10
    tensors = model.feed(inputs)
    model.reset_counters()
    result, times_ms = model.measure(tensors, 1 + repeat)
    counted = model.counters()
    counters = {name: value / (1 + repeat) for name, value in counted.items()}
    outputs = model.fetch(result)
    errors = []
    if args.compare is not None:
        tolerance = default_tolerance(manifest)
        if args.tolerance is not None:
            tolerance = dataclasses.replace(tolerance, relative_error=args.tolerance)
        wanted = reference.compute(args.compare, inputs)
        if set(wanted) != set(outputs):
            raise AnotherModel(
                f"{args.compare}: its outputs are {', '.join(wanted)}, the artefact's are "
                f"{', '.join(outputs)}; compare with the model it was built from"
            )
        errors = compare(outputs, wanted, tolerance)
    if args.save is not None:
        save_outputs(args.save, outputs)
    held = all(error.held for error in errors) if errors else None
    fallbacks = model.fallbacks()
    summary = {
        "artefact": str(args.artefact),
        "target": manifest.target,
        "simulated": model.simulated and not fallbacks,
        "gpu": _gpu_words(model.gpus(), manifest),
        "memory": _memory_words(model.gpus()),
        "npu": "not used" if fallbacks else _npu_words(manifest, model.simulated),
        "fallbacks": fallbacks,
        "load_s": model.load_seconds,
        "first_run_ms": times_ms[0],
        "length": sum(piece.size for piece in tensors.way) if tensors.way else None,
        "way": words(tensors.way) if tensors.way else None,
        "run_ms": {"median": statistics.median(times_ms[1:]), "min": min(times_ms[1:])}
        if repeat
        else None,
        "per_run": counters,
        "outputs": [dataclasses.asdict(error) for error in errors]
        or [
            {"name": name, "shape": list(array.shape), "dtype": str(array.dtype)}
            for name, array in outputs.items()
        ],
        "held": held,
    }
    if args.json:
        cli.emit_json("run", summary)
    else:
        cli.emit(_text(summary, errors))
    return 1 if held is False else 0


def read_inputs(flags: list[str], flag: str = "--inputs") -> dict[str, np.ndarray]:
    """Arrays by name from `FILE.npz` and `NAME=FILE.npy` flags; no pickles are read."""
    arrays: dict[str, np.ndarray] = {}
    for text in flags:
        name, separator, file = text.rpartition("=")
        path = Path(file)
        try:
            loaded = np.load(path, allow_pickle=False)
            if not isinstance(loaded, np.ndarray):
                arrays.update(loaded)  # reads the members
                continue
        except OSError as error:
            raise WrongTensors(f"{flag} {text}: {error.strerror or error}") from None
        except (ValueError, EOFError, zipfile.BadZipFile):
            # numpy's own words for a file of something else advise to unpickle it
            raise WrongTensors(
                f"{flag} {text}: not a whole .npy or .npz file of numbers, as numpy.save writes"
            ) from None
        if not separator:
            raise WrongTensors(f"{flag} {text}: say which input it is, as in NAME={file}")
        arrays[name] = loaded
    return arrays


def complete_inputs(
    given: Mapping[str, np.ndarray], manifest: Manifest, seed: int, length: int | None = None
) -> dict[str, np.ndarray]:
    """`given`, and for the rest seeded random arrays, drawn as the model's graph suggests.

    `length`: of the rest, where the artefact is built for several lengths; that of the given
    inputs where they carry one, else the longest that is built.

    Raises:
        BadInput: a `length` that is not that of the given inputs, or of an artefact without any.
    """
    from hetero_tvm.frontend.random_inputs import draw_inputs, ranges_at
    from hetero_tvm.loader import length_of

    rules, ranges = manifest.lengths, manifest.ranges
    if rules is None:
        if length is not None:
            raise LengthNotBuilt(f"--length {length}: the artefact was built without --length")
    else:
        carrying = {name: array for name, array in given.items() if name in rules.input_axes}
        found = length_of(carrying, rules) if carrying else None
        if length is not None and (length < 1 or found not in (None, length)):
            said = f"the given inputs are {found} long" if found else "at least 1"
            raise LengthNotBuilt(f"--length {length}: {said}")
        size = found or length or max(variant.length for variant in manifest.variants)
        ranges = ranges_at(ranges, rules.input_axes, size)
    if {spec.name for spec in manifest.inputs} <= set(given):
        return dict(given)
    return {**draw_inputs(ranges, seed), **given}


def default_tolerance(manifest: Manifest) -> Tolerance:
    """float32 arithmetic throughout, or float16 somewhere (the HTP, or half storage)."""
    coarse = manifest.dtype == "float16" or (
        manifest.npu_provider == "qnn" and manifest.npu_regions > 0
    )
    return FLOAT16 if coarse else FLOAT32


def check_save(path: Path, inputs: list[Path | None], flag: str = "--save") -> None:
    """Say before the run what would go wrong after it."""
    if not path.parent.is_dir():
        raise BadOutputPath(f"{flag} {path}: the folder {path.parent} does not exist")
    if path.is_dir():
        raise BadOutputPath(f"{flag} {path}: is a folder; give a file name")
    if path.resolve() in [file.resolve() for file in inputs if file is not None]:
        raise BadOutputPath(f"{flag} {path}: would overwrite an input")


def save_outputs(path: Path, outputs: Mapping[str, np.ndarray]) -> None:
    """Write the outputs as .npz, whole or not at all."""
    try:
        with whole_file(path) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **outputs)
    except OSError as error:
        raise CannotWrite(f"cannot write {path}: {error.strerror or error}") from error


def _gpu_words(devices: list[dict[str, Any]], manifest: Manifest) -> str:
    chosen = next((device for device in devices if device["selected"]), None)
    if chosen is None:
        return "not there"
    words = [chosen["platform"]]
    if manifest.dtype == "float16":
        has = "has" if chosen["half"] else "lacks"
        words.append(f"float16 storage, float32 arithmetic; the device {has} cl_khr_fp16")
    return f"{chosen['name']} ({', '.join(words)})"


def _memory_words(devices: list[dict[str, Any]]) -> str:
    """How GPU, NPU and host come to share bytes, and why not in a better way."""
    chosen = next((device for device in devices if device["selected"]), None)
    if chosen is None:
        return "the CPU's"
    why = chosen.get("memory_why", "a program of an older version runs there; deploy again")
    return f"{chosen['memory']} ({why})"


def _npu_words(manifest: Manifest, simulated: bool) -> str:
    if manifest.npu_regions == 0:
        return "not used"
    if manifest.npu_provider == "cpu":
        return "ONNX Runtime's CPU provider, standing in for an NPU"
    arch = f"HTP v{manifest.htp_arch} of {manifest.soc}"
    if len(manifest.targets) > 1:
        arch += f" ({manifest.target}, one of {len(manifest.targets)} in the artefact)"
    return f"{arch}, simulated by Qualcomm's x86 simulator" if simulated else arch


def _text(result: dict[str, Any], errors: list[OutputError]) -> str:
    lines = [
        f"target   {result['target']}" + ("  (simulated)" if result["simulated"] else ""),
        f"GPU      {result['gpu']}",
        f"NPU      {result['npu']}",
        f"memory   {result['memory']}",
        f"load     {result['load_s']:.2f} s, first run {result['first_run_ms']:.1f} ms"
        + (" (simulated: not the chip's time)" if result["simulated"] else ""),
    ]
    lines += [f"fallback {line}" for line in result["fallbacks"]]
    if result["way"]:
        lines.append(f"length   {result['length']}, on {result['way']}")
    if result["run_ms"]:
        lines.append(f"run      {result['run_ms']['median']:.2f} ms, median")
    if not errors:
        lines += [f"output   {o['name']} {o['shape']} {o['dtype']}" for o in result["outputs"]]
        return "\n".join(lines)
    lines.append(f"{'output':<28}{'shape':<18}{'max error':>11}{'relative':>11}{'cosine':>11}")
    for error in errors:
        shape = "x".join(map(str, error.shape)) or "scalar"
        lines.append(
            f"{error.name[:27]:<28}{shape:<18}{error.max_abs_error:>11.2e}"
            f"{error.relative_error:>11.2e}{error.cosine:>11.7f}  {'' if error.held else 'FAILED'}"
        )
    lines.append("held" if result["held"] else "did NOT hold: the artefact's numbers are wrong")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(cli.verb_main("run"))
