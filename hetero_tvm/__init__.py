"""An ahead-of-time compiler and runtime that works on a SoC's GPU and NPU at the same time.

    import hetero_tvm
    hetero_tvm.build("model.onnx", target="snapdragon", output="model.so")
    model = hetero_tvm.load("model.so")
    outputs = model(input_ids=ids, attention_mask=mask)

Importing the package is cheap; TVM is loaded when something is built or run.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "build", "load"]


def __getattr__(name: str) -> Any:
    if name == "build":
        import hetero_tvm.build as verb  # a callable module: the verb and the function

        return verb
    if name == "load":
        from hetero_tvm.loader import load

        return load
    raise AttributeError(f"module 'hetero_tvm' has no attribute {name!r}")
