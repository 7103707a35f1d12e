"""ONNX in, checked Relax out."""

from __future__ import annotations

from hetero_tvm.frontend.input_specs import InputSpec, parse_input_flag
from hetero_tvm.frontend.llm_folder import LlmFolder, is_llm_folder, read_llm_folder
from hetero_tvm.frontend.llm_import import StepImporter
from hetero_tvm.frontend.model_import import ImportedModel, import_model
from hetero_tvm.frontend.random_inputs import (
    InputRange,
    draw_inputs,
    input_ranges,
    random_inputs,
)
from hetero_tvm.frontend.self_check import OutputError
from hetero_tvm.frontend.tensor_spec import TensorSpec

__all__ = [
    "ImportedModel",
    "InputRange",
    "InputSpec",
    "LlmFolder",
    "OutputError",
    "StepImporter",
    "TensorSpec",
    "draw_inputs",
    "import_model",
    "input_ranges",
    "is_llm_folder",
    "parse_input_flag",
    "random_inputs",
    "read_llm_folder",
]
