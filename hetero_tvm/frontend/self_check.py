"""Does the imported module compute what ONNX Runtime computes for the original file?

The module is compiled for the CPU, both run on the same random inputs, and every output must
agree within `TOLERANCE` (relative, in the 2-norm). If one does not, the first node that is to
blame is looked for in three steps, each on ONNX Runtime's own intermediate values:

  1. shape folding and decompositions: original against folded model, both in ONNX Runtime;
  2. converters: every node on its own, fed with ONNX Runtime's values, so that an error cannot
     travel and rounding cannot pile up;
  3. rewrites after the import: every binding of the final module that equals an ONNX value.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from tvm import IRModule, relax

from hetero_tvm.errors import ImportDiffers, ReferenceRefuses
from hetero_tvm.frontend.cpu_run import run_on_cpu
from hetero_tvm.frontend.evaluate import quiet_options
from hetero_tvm.frontend.folded_model import FoldedModel
from hetero_tvm.frontend.onnx_import import Imported, to_isolated_nodes
from relay_passes.rewrite_bindings import dataflow_bindings

logger = logging.getLogger(__name__)

# Both sides compute in float32 (unit roundoff 6e-8) and differ in the order of sums and in their
# polynomials for exp, tanh and erf. Over some 100 layers that has stayed below 2e-5 on real models;
# a wrong operator is off by 1e-2 and more. Half precision rounds at 5e-4 each step.
TOLERANCE = {"float64": 1e-4, "float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
# ONNX Runtime's sigmoid, tanh and erf are accurate to one rounding of 1.0, not of their result: a
# probability of 1e-5 carries a relative error of 1e-3. Less than this is therefore no difference.
NO_DIFFERENCE = {"float64": 1e-7, "float32": 1e-7, "float16": 5e-4, "bfloat16": 4e-3}
_MAX_PROTO_BYTES = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class OutputError:
    """How far one output is from ONNX Runtime's."""

    name: str
    relative: float  # 2-norm of the difference over 2-norm of the reference
    largest: float  # of the absolute differences


def relative_error(found: np.ndarray, wanted: np.ndarray) -> float:
    """2-norm of the difference over that of the reference; infinite for NaN in one side only."""
    if found.shape != wanted.shape:
        return float("inf")
    if wanted.size == 0:
        return 0.0
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if not np.all(np.isfinite(a[~same]) & np.isfinite(b[~same])):
        return float("inf")
    difference = float(np.linalg.norm(a[~same] - b[~same]))
    scale = float(np.linalg.norm(b[np.isfinite(b)]))
    return difference / scale if scale > 0 else difference


def is_close(
    found: np.ndarray,
    wanted: np.ndarray,
    tolerance: Mapping[str, float],
    computed_in: str | None = None,
) -> bool:
    """Within the tolerance of its dtype; integers and booleans must be equal.

    `computed_in`: the type whose tolerance counts where it is not its own, see `coarsest_types`.
    """
    kind = wanted.dtype.name
    if computed_in is not None and kind in tolerance:
        kind = computed_in
    if relative_error(found, wanted) <= tolerance.get(kind, 0.0):
        return True
    return found.shape == wanted.shape and largest_error(found, wanted) <= NO_DIFFERENCE.get(
        kind, 0
    )


def largest_error(found: np.ndarray, wanted: np.ndarray) -> float:
    """Largest absolute difference of two arrays of one shape; NaN where one of them is."""
    with np.errstate(invalid="ignore"):
        gap = np.abs(found.astype(np.float64) - wanted.astype(np.float64))
    return float(gap[found != wanted].max(initial=0.0))


def coarsest_types(nodes: Iterable[onnx.NodeProto], dtypes: Mapping[str, str]) -> dict[str, str]:
    """Value -> the floating type of the largest tolerance that a value behind it was rounded to.

    `nodes` in topological order; `dtypes`: of what they give. Inputs and constants do not count:
    both sides have the same.
    """
    coarsest: dict[str, str] = {}
    for node in nodes:
        behind = [coarsest[name] for name in node.input if name in coarsest]
        for name in node.output:
            own = [dtypes[name]] if dtypes.get(name) in TOLERANCE else []
            if own or behind:
                coarsest[name] = max([*own, *behind], key=TOLERANCE.__getitem__)
    return coarsest


def check_import(
    original: Path,
    folded: FoldedModel,
    imported: Imported,
    inputs: Mapping[str, np.ndarray],
    *,
    every_node: bool = False,
) -> tuple[OutputError, ...]:
    """Errors of all outputs on `inputs`; raises `BadInput` naming the first differing node.

    With `every_node` the message lists all differing nodes of the step that failed.
    """
    wanted = _run_original(original, folded, inputs)
    params = [spec.name for spec in folded.inputs]
    found = run_on_cpu(imported.mod, params, inputs)
    computed_in = _computed_in(folded)
    errors = []
    good = True
    for spec, mine, reference in zip(folded.outputs, found, wanted, strict=True):
        good = good and is_close(mine, reference, TOLERANCE, computed_in.get(spec.name))
        errors.append(
            OutputError(
                name=spec.name,
                relative=relative_error(mine, reference),
                largest=largest_error(mine, reference),
            )
        )
    if not good:
        raise _blame(original, folded, imported, inputs, errors, every_node)
    return tuple(errors)


def _computed_in(folded: FoldedModel) -> dict[str, str]:
    dtypes = {name: known.dtype for name, known in folded.types.items()}
    return coarsest_types(folded.proto.graph.node, dtypes)


def _session(model: Path | bytes) -> onnxruntime.InferenceSession:
    source = str(model) if isinstance(model, Path) else model
    return onnxruntime.InferenceSession(
        source, quiet_options(threads=0), providers=["CPUExecutionProvider"]
    )


def _run_original(
    path: Path, folded: FoldedModel, inputs: Mapping[str, np.ndarray]
) -> list[np.ndarray]:
    try:
        session = _session(path)
        return session.run([spec.name for spec in folded.outputs], dict(inputs))
    except Exception as error:  # ONNX Runtime has no common base class
        raise ReferenceRefuses(
            f"{path}: ONNX Runtime cannot run the model, so the import cannot be checked "
            f"(--no-check skips the check): {_first_line(error)}"
        ) from error


# -- who is to blame ---------------------------------------------------------------------------


def _blame(
    original: Path,
    folded: FoldedModel,
    imported: Imported,
    inputs: Mapping[str, np.ndarray],
    errors: Sequence[OutputError],
    every_node: bool,
) -> ImportDiffers:
    worst = max(errors, key=lambda error: error.relative)
    summary = (
        f"{original}: the import differs from ONNX Runtime: output {worst.name!r} by "
        f"{worst.relative:.1e} relative"
    )
    truth = intermediates(folded.proto, inputs)
    searches: dict[str, Callable[[], list[str]]] = {
        "folding or decomposing it changed its value": lambda: _differing_folds(
            original, folded, inputs, truth
        ),
        "its converter is wrong": lambda: _differing_nodes(folded, truth),
        "a rewrite after the import changed its value": lambda: _differing_bindings(
            folded, imported, inputs, truth
        ),
    }
    for cause, search in searches.items():
        nodes = search()
        if nodes:
            listed = ", ".join(nodes if every_node else nodes[:1])
            plural = "nodes" if every_node and len(nodes) > 1 else "first differing node"
            return ImportDiffers(
                f"{summary}; {plural}: {listed} ({cause}). Please report this model; "
                "--no-check builds it as it is"
            )
    return ImportDiffers(
        f"{summary}, though every node agrees on its own: rounding errors pile up in this model. "
        "--no-check builds it as it is"
    )


def intermediates(
    model: onnx.ModelProto, inputs: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Every value of a folded model's graph, and its inputs, computed by ONNX Runtime."""
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    present = {output.name for output in exposed.graph.output}
    exposed.graph.output.extend(
        value for value in model.graph.value_info if value.name not in present
    )
    names = [output.name for output in exposed.graph.output]
    values = dict(inputs)
    values.update(zip(names, _run_model(exposed, names, inputs), strict=True))
    return values


def _run_model(
    model: onnx.ModelProto, names: Sequence[str], inputs: Mapping[str, np.ndarray]
) -> list[np.ndarray]:
    if model.ByteSize() < _MAX_PROTO_BYTES:
        return _session(model.SerializeToString()).run(list(names), dict(inputs))
    with tempfile.TemporaryDirectory(prefix="hetero_tvm_check_") as folder:
        path = Path(folder) / "model.onnx"
        onnx.save_model(model, str(path), save_as_external_data=True, location="weights")
        return _session(path).run(list(names), dict(inputs))


def _differing_folds(
    original: Path,
    folded: FoldedModel,
    inputs: Mapping[str, np.ndarray],
    truth: Mapping[str, np.ndarray],
) -> list[str]:
    """Nodes whose value differs between the original and the folded model."""
    model = onnx.load(str(original))
    produced = {name: node.name or name for node in model.graph.node for name in node.output}
    here = {name: folded.alias.get(name, name) for name in produced}
    shared = [name for name in produced if here[name] in truth]
    present = {output.name for output in model.graph.output}
    model.graph.output.extend(
        onnx.helper.make_empty_tensor_value_info(name) for name in shared if name not in present
    )
    reference = _run_model(model, shared, inputs)
    return [
        repr(produced[name])
        for name, wanted in zip(shared, reference, strict=True)
        if not is_close(truth[here[name]], wanted, TOLERANCE)
    ]


def _differing_nodes(folded: FoldedModel, truth: Mapping[str, np.ndarray]) -> list[str]:
    """Nodes whose conversion differs when it is fed with ONNX Runtime's own values."""
    isolated, params, results = to_isolated_nodes(folded)
    found = run_on_cpu(isolated, params, truth)
    by_output = {name: node for node in folded.proto.graph.node for name in node.output}
    return [
        f"{folded.origin[by_output[name].name]!r} ({by_output[name].op_type})"
        for name, mine in zip(results, found, strict=True)
        if not is_close(mine, truth[name], TOLERANCE)
    ]


def _differing_bindings(
    folded: FoldedModel,
    imported: Imported,
    inputs: Mapping[str, np.ndarray],
    truth: Mapping[str, np.ndarray],
) -> list[str]:
    """Bindings of the final module whose value is not that of the ONNX value they stand for."""
    mod, names = _with_all_bindings(imported.mod)
    computed_in = _computed_in(folded)
    found = run_on_cpu(mod, [spec.name for spec in folded.inputs], inputs)
    return [
        repr(imported.node_of[name])
        for name, mine in zip(names, found, strict=True)
        if (tensor := imported.tensor_of.get(name)) is not None
        and not is_close(mine, truth[tensor], TOLERANCE, computed_in.get(tensor))
    ]


def _with_all_bindings(mod: IRModule) -> tuple[IRModule, list[str]]:
    """`main` returning the value of every tensor binding, and their names."""
    func = mod["main"]
    bindings = dataflow_bindings(func)
    visible = [b.var for b in bindings if isinstance(b.var.ty, relax.TensorType)]
    body = relax.SeqExpr(func.body.blocks, relax.Tuple(visible))
    # Variables of a dataflow block cannot leave it; plain code has no such border.
    ty = relax.TupleType([var.ty for var in visible])
    exposed = relax.Function(func.params, body, ty, func.is_pure, func.attrs)
    exposed = relax.transform.ToNonDataflow()(IRModule({"main": exposed}))["main"]
    others = {var: other for var, other in mod.functions.items() if var.name_hint != "main"}
    return IRModule({**others, "main": exposed}), [var.name for var in visible]


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
