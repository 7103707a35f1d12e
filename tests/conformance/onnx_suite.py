"""ONNX's own backend tests through the whole of the compiler: passed, refused, or failed.

    python tests/conformance/onnx_suite.py [--devices gpu|npu|gpu+npu] [--target host]
        [--only REGEX] [--every N] [--out results.jsonl] [--table table.md]

Every case of `onnx.backend.test` is built, loaded and run on the inputs that come with it, in a
process that may crash or hang without taking the others along. A case ends as

passed    the outputs agree with those that come with the case, within its own tolerances
constant  so too, once its inputs of whole numbers (shapes, axes, indices) are part of the model:
          an NPU graph is static, so what shapes hang on must be known when a model is built
refused   the compiler said in one line what it does not take, and why
failed    wrong numbers, a crash, a hang, or an error that is none of ours

`--out` is appended to; cases that are in it already are not run again.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import json
import multiprocessing
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

LIMIT_S = 120
_STORED_BITS = {"float16": 10, "bfloat16": 7}  # of a significand
_NONE = np.dtype(object)
_ROUNDINGS = (
    2  # of each value that a device with a smaller significand than the type's may have made
)
KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")


@dataclasses.dataclass(frozen=True)
class Verdict:
    """How one case ended."""

    case: str
    operators: tuple[str, ...]
    verdict: str  # passed, constant, refused, failed
    reason: str = ""


def cases(only: str = "", every: int = 1) -> Iterator[Any]:
    """The cases of the suite, in their order."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [case for kind in KINDS for case in load_model_tests(kind=kind)]
    chosen = [case for case in found if re.search(only, case.name)]
    yield from chosen[::every]


def model_of(case: Any) -> onnx.ModelProto:
    """The model of a case, wherever the suite keeps it."""
    return case.model or onnx.load(Path(case.model_dir) / "model.onnx")


def data_of(case: Any, model: onnx.ModelProto) -> list[tuple[list[Any], list[Any]]]:
    """(inputs, outputs) of every data set of a case."""
    if case.data_sets is not None:
        return [tuple([_array(x) for x in side] for side in pair) for pair in case.data_sets]
    sets = []
    for folder in sorted(Path(case.model_dir).glob("test_data_set_*")):
        sides = []
        for name, values in (("input", _fed(model)), ("output", model.graph.output)):
            files = [folder / f"{name}_{i}.pb" for i in range(len(values))]
            sides.append([_read(path, value) for path, value in zip(files, values, strict=True)])
        sets.append((sides[0], sides[1]))
    return sets


def _fed(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Inputs that have no value in the model."""
    known = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in known]


def _array(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return np.asarray(value) if isinstance(value, np.generic) else value


def _read(path: Path, value: onnx.ValueInfoProto) -> Any:
    if value.type.WhichOneof("value") != "tensor_type":
        return None  # sequences and optionals, which are refused before data matters
    return numpy_helper.to_array(onnx.TensorProto.FromString(path.read_bytes()))


def with_constants(model: onnx.ModelProto, inputs: list[Any]) -> onnx.ModelProto | None:
    """The model with its whole-number inputs as initializers; None if that changes nothing."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    kept = [
        (value, array)
        for value, array in zip(_fed(model), inputs, strict=False)
        if not (isinstance(array, np.ndarray) and array.dtype.kind in "iub")
    ]
    if len(kept) in (0, len(_fed(model))):
        return None
    names = {value.name for value, _ in kept}
    given = list(zip(_fed(model), inputs, strict=False))
    del fixed.graph.input[:]
    fixed.graph.input.extend(value for value, _ in kept)
    for value, array in given:
        if value.name not in names:
            fixed.graph.initializer.append(numpy_helper.from_array(array, value.name))
    return fixed


def judge(case: Any, target: str, devices: str) -> Verdict:
    """Build and run one case, here."""
    model = model_of(case)
    operators = tuple(sorted({f"{n.domain}.{n.op_type}".lstrip(".") for n in model.graph.node}))
    try:
        data = data_of(case, model)
        verdict, reason = _run(model, data, case, target, devices)
        if verdict == "refused":
            fixed = with_constants(model, data[0][0])
            if fixed is not None:
                names = {value.name for value in _fed(fixed)}
                order = [value.name for value in _fed(model)]
                rest = [
                    ([x for x, n in zip(given, order, strict=False) if n in names], wanted)
                    for given, wanted in data[:1]
                ]
                second, why = _run(fixed, rest, case, target, devices)
                if second == "passed":
                    verdict = "constant"
                elif second == "failed":
                    verdict, reason = second, why
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what this looks for
        verdict, reason = "failed", f"{type(error).__name__}: {error}".splitlines()[0]
    return Verdict(case.name, operators, verdict, reason)


def _run(
    model: onnx.ModelProto, data: list[Any], case: Any, target: str, devices: str
) -> tuple[str, str]:
    import hetero_tvm
    from hetero_tvm.errors import BadInput, EnvironmentProblem

    bits = _computed_bits(target, devices)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        shapes = {
            value.name: list(array.shape)
            for value, array in zip(_fed(model), data[0][0], strict=False)
            if isinstance(array, np.ndarray) and not _is_static(value)
        }
        try:
            samples = []
            for number, (given, _) in enumerate(data if bits is not None else ()):
                known = zip([value.name for value in _fed(model)], given, strict=False)
                arrays = {n: x for n, x in known if getattr(x, "dtype", _NONE).kind in "fiub"}
                samples.append(Path(folder) / f"{number}.npz")
                np.savez(samples[-1], **arrays)
            hetero_tvm.build(
                path,
                target=target,
                devices=devices,
                inputs=shapes,
                output=Path(folder) / "model.so",
                samples=samples,
                check=False,
            )
            loaded = hetero_tvm.load(Path(folder) / "model.so")
        except (BadInput, EnvironmentProblem) as error:
            return "refused", str(error).replace(str(path), "model")
        for given, wanted in data:
            names = [value.name for value in _fed(model)]
            fed = {n: x for n, x in zip(names, given, strict=False) if isinstance(x, np.ndarray)}
            got = loaded.run(fed)
            for name, expected in zip([v.name for v in model.graph.output], wanted, strict=True):
                reason = difference(got[name], expected, case.rtol, case.atol, bits=bits)
                if reason:
                    return "failed", f"{name}: {reason}"
    return "passed", ""


def _computed_bits(target: str, devices: str) -> int | None:
    """The significand of float16 where an NPU computes in it whatever the model says."""
    from target_specs.loader import load_spec

    on_npu = "npu" in devices and load_spec(target).npu.provider == "qnn"
    return _STORED_BITS["float16"] if on_npu else None


def _is_static(value: onnx.ValueInfoProto) -> bool:
    tensor = value.type.tensor_type
    return tensor.HasField("shape") and all(dim.dim_value for dim in tensor.shape.dim)


def difference(
    got: np.ndarray, wanted: Any, rtol: float, atol: float, bits: int | None = None
) -> str:
    """What is wrong, in a few words; empty when nothing is.

    `bits`: of the significand that the device computes with, where that is not the type's.
    """
    wanted = np.asarray(wanted)
    roundings = 2
    stored = _STORED_BITS.get(wanted.dtype.name)
    if bits is not None and wanted.dtype.kind == "f":
        roundings, stored = _ROUNDINGS, min(bits, stored or bits)
    if stored is not None and np.size(wanted):
        # Two roundings of what the numbers are stored in: sums in another order differ by that.
        step = 2.0**-stored
        finite = np.abs(wanted[np.isfinite(wanted)].astype(np.float64))
        rtol = max(rtol, roundings * step)
        atol = max(atol, roundings * step * float(finite.max(initial=0)))
    if got.shape != wanted.shape:
        return f"shape {got.shape} in place of {wanted.shape}"
    if got.dtype != wanted.dtype:
        return f"type {got.dtype} in place of {wanted.dtype}"
    if wanted.dtype.kind in "fc" or wanted.dtype.name == "bfloat16":
        close = np.isclose(
            got.astype(np.float64), wanted.astype(np.float64), rtol, atol, equal_nan=True
        )
    else:
        close = got == wanted
    if close.all():
        return ""
    words = f"{np.size(close) - int(np.sum(close))} of {np.size(close)} elements differ"
    if wanted.dtype.kind == "f" and np.isfinite(wanted).all() and np.isfinite(got).all():
        far = np.abs(got.astype(np.float64) - wanted.astype(np.float64)).max()
        words += f", by up to {far / max(float(np.abs(wanted).max()), 1e-30):.1e} of the largest"
    return words


def _serve(pipe: Any, target: str, devices: str) -> None:
    """A process that judges the cases that come in."""
    os.dup2(2, 1)
    while True:
        pipe.send(judge(pipe.recv(), target, devices))


class Judge:
    """A process of its own, made anew after a crash or a hang."""

    def __init__(self, target: str, devices: str) -> None:
        self._args = (target, devices)
        self._process: Any = None
        self._pipe: Any = None

    def __call__(self, case: Any) -> Verdict:
        if self._process is None:
            context = multiprocessing.get_context("spawn")
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(target=_serve, args=(theirs, *self._args), daemon=True)
            self._process.start()
            theirs.close()
        model = model_of(case)
        operators = tuple(sorted({n.op_type for n in model.graph.node}))
        try:
            self._pipe.send(case)
            if self._pipe.poll(LIMIT_S):
                verdict: Verdict = self._pipe.recv()
                return verdict
            reason = f"no end after {LIMIT_S} s"
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._process.join(5)
            reason = f"the process died (exit code {self._process.exitcode})"
        self.close()
        return Verdict(case.name, operators, "failed", reason)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None


def table(verdicts: list[Verdict]) -> str:
    """Markdown: counts, every failure, and what is refused by operator."""
    count = collections.Counter(v.verdict for v in verdicts)
    lines = [
        "| passed | passed with constant shapes | refused | failed |",
        "|---|---|---|---|",
        f"| {count['passed']} | {count['constant']} | {count['refused']} | {count['failed']} |",
        "",
    ]
    for v in verdicts:
        if v.verdict == "failed":
            lines.append(f"- failed: `{v.case}`: {v.reason}")
    refused: dict[str, dict[str, list[str]]] = collections.defaultdict(
        lambda: collections.defaultdict(list)
    )
    for v in verdicts:
        if v.verdict == "refused":
            refused[" ".join(v.operators)][v.reason].append(v.case)
    lines += ["", "| refused operators | cases | first reason |", "|---|---|---|"]
    for operators, reasons in sorted(refused.items()):
        total = sum(map(len, reasons.values()))
        reason = next(iter(reasons)).replace("|", "\\|").replace("\n", " ")
        lines.append(f"| {operators} | {total} | {reason[:160]} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the suite; exit code 1 when a case fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--target", default="host")
    parser.add_argument("--devices", default="gpu", choices=("gpu", "npu", "gpu+npu"))
    parser.add_argument("--only", default="", help="regular expression on case names")
    parser.add_argument("--every", type=int, default=1, help="only each N-th case")
    parser.add_argument("--out", type=Path, help="JSON lines, one per case; resumed")
    parser.add_argument("--table", type=Path, help="write the summary as Markdown")
    args = parser.parse_args()
    os.environ.setdefault("HETERO_HOST_PROFILE", "shipped")
    verdicts: list[Verdict] = []
    if args.out and args.out.exists():
        for line in args.out.read_text().splitlines():
            raw = json.loads(line)
            verdicts.append(Verdict(**{**raw, "operators": tuple(raw["operators"])}))
    done = {v.case for v in verdicts}
    judge_case = Judge(args.target, args.devices)
    with contextlib.closing(judge_case):
        for case in cases(args.only, args.every):
            if case.name in done:
                continue
            verdict = judge_case(case)
            verdicts.append(verdict)
            if verdict.verdict == "failed":
                print(f"failed {verdict.case}: {verdict.reason}", flush=True)
            if args.out:
                with args.out.open("a") as file:
                    file.write(json.dumps(dataclasses.asdict(verdict)) + "\n")
    text = table(verdicts)
    if args.table:
        args.table.write_text(text)
    print(text)
    return int(any(v.verdict == "failed" for v in verdicts))


if __name__ == "__main__":
    sys.exit(main())
