"""Rewrites after the import, in order: few operators, each meaning one thing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from tvm import IRModule

from hetero_tvm.frontend.onnx_import import Imported
from relay_passes.fold_reshapes import FoldReshapes
from relay_passes.fuse_gelu import FuseGelu
from relay_passes.fuse_layer_norm import FuseLayerNorm
from relay_passes.fuse_rms_norm import FuseRmsNorm
from relay_passes.rewrite_bindings import dataflow_bindings

Pass = Callable[[IRModule], IRModule]


def passes() -> Sequence[Pass]:
    """The rewrites, in order."""
    return (
        # Reshapes first: one between two operators hides the patterns below.
        FoldReshapes(),
        FuseGelu(),
        FuseLayerNorm(),
        FuseRmsNorm(),
    )


def canonicalise(imported: Imported, more: Sequence[Pass] = ()) -> Imported:
    """Apply every rewrite, then `more`; new bindings belong to the node that needed them."""
    mod = imported.mod
    for rewrite in (*passes(), *more):
        mod = rewrite(mod)
    names = [binding.var.name for binding in dataflow_bindings(mod["main"])]
    node_of: dict[str, str] = {}
    waiting: list[str] = []
    for name in names:
        waiting.append(name)
        if name in imported.node_of:
            node_of |= dict.fromkeys(waiting, imported.node_of[name])
            waiting = []
    tensor_of = {name: value for name, value in imported.tensor_of.items() if name in node_of}
    return replace(imported, mod=mod, node_of=node_of, tensor_of=tensor_of)
