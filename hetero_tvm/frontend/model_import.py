"""An ONNX file becomes a checked Relax module: the order of the frontend's steps."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from tvm import IRModule

from hetero_tvm.frontend import converters
from hetero_tvm.frontend.canonicalise import canonicalise
from hetero_tvm.frontend.decompose import DECOMPOSITIONS
from hetero_tvm.frontend.empty_tensors import refuse_empty_tensors
from hetero_tvm.frontend.fold_affine import fold_affine
from hetero_tvm.frontend.four_bit_weights import four_bit_weights
from hetero_tvm.frontend.input_specs import InputShape, fix_input_shapes
from hetero_tvm.frontend.onnx_import import to_relax
from hetero_tvm.frontend.random_inputs import InputRange, draw_inputs, input_ranges
from hetero_tvm.frontend.read_model import read_model
from hetero_tvm.frontend.self_check import OutputError, check_import
from hetero_tvm.frontend.shape_folding import fold_model
from hetero_tvm.frontend.tensor_spec import TensorSpec
from schedules.w4a16_table import W4Blocks

logger = logging.getLogger(__name__)

Progress = Callable[[str], None]
_CHECK_SEED = 0
_NO_SHAPES: Mapping[str, InputShape] = {}


@dataclass(frozen=True, kw_only=True)
class ImportedModel:
    """A model in Relax, with what is known about its border and its origin.

    `mod["main"]` takes `inputs` in order and returns a tuple with `outputs` in order; it holds one
    dataflow block whose bindings are the keys of `node_of`.
    """

    mod: IRModule
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    onnx_model: onnx.ModelProto  # static and folded; computes the same as the original
    ranges: tuple[InputRange, ...]  # what random inputs are drawn from
    sha256: str  # of the model file and its external data
    node_of: Mapping[str, str]  # binding -> name of the ONNX node that made it
    errors: tuple[OutputError, ...]  # of the self-check; empty when it was skipped
    # Binding -> the value of `onnx_model` that it equals, where it equals one.
    tensor_of: Mapping[str, str] = field(default_factory=dict)
    # What some of the float constants came from.
    four_bit: tuple[W4Blocks, ...] = ()


def import_model(
    path: Path | str,
    *,
    input_shapes: Mapping[str, InputShape] = _NO_SHAPES,
    check: bool = True,
    keep_going: bool = False,
    progress: Progress = lambda _step: None,
) -> ImportedModel:
    """Read, fix, fold, import, canonicalise and check the model at `path`.

    Raises `BadInput` for everything that is wrong with the file or the flags. With `keep_going` a
    failed check lists every differing node instead of the first.
    """
    path = Path(path)
    progress("reading the model")
    raw = read_model(path)
    inputs = fix_input_shapes(raw.proto, input_shapes)
    progress("folding shapes and constants")
    four_bit = four_bit_weights(raw.proto)
    folded = fold_model(raw.proto, inputs, DECOMPOSITIONS, converters.is_importable)
    sha256 = raw.sha256
    del raw  # large models: the original weights are not needed any more
    folded = fold_affine(folded)
    progress("importing")
    imported = canonicalise(to_relax(folded))
    refuse_empty_tensors(imported.mod, folded.outputs, imported.node_of)
    ranges = input_ranges(folded.proto, folded.dropped, folded.dropped_constants)
    errors: tuple[OutputError, ...] = ()
    if check:
        progress("checking against ONNX Runtime")
        drawn = draw_inputs(ranges, _CHECK_SEED)
        errors = check_import(path, folded, imported, drawn, every_node=keep_going)
    return ImportedModel(
        mod=imported.mod,
        inputs=folded.inputs,
        outputs=folded.outputs,
        onnx_model=folded.proto,
        ranges=ranges,
        sha256=sha256,
        node_of=imported.node_of,
        errors=errors,
        tensor_of=imported.tensor_of,
        four_bit=four_bit,
    )
