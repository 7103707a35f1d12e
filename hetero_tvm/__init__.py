"""An ahead-of-time compiler and runtime that works on a SoC's GPU and NPU at the same time.

    import hetero_tvm
    hetero_tvm.build("model.onnx", target="snapdragon", output="model.so")
    model = hetero_tvm.load("model.so")
    outputs = model(input_ids=ids, attention_mask=mask)

    hetero_tvm.build("model_folder", target="snapdragon", output="llm.so")
    for token in hetero_tvm.load_llm("llm.so").generate(tokens, max_new_tokens=64): ...

Importing the package is cheap; TVM is loaded when something is built or run.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "build", "load", "load_llm"]


def __getattr__(name: str) -> Any:
    if name == "build":
        import hetero_tvm.build as verb  # a callable module: the verb and the function

        return verb
    if name == "load":
        from hetero_tvm.loader import load

        return load
    if name == "load_llm":
        from hetero_tvm.llm_session import load_llm

        return load_llm
    raise AttributeError(f"module 'hetero_tvm' has no attribute {name!r}")
