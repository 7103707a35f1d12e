"""Weights that several NPU regions have in common, stored once.

    region 0 {w: 4 MB}  region 1 {w: 4 MB}   ->   region 0 {w: [0, 4 MB)}  region 1 {w: [0, 4 MB)}
                                                  + one file of 4 MB

Regions of several lengths of one model compute with the same weights. What more than one model
holds moves into a file that they refer to, as ONNX's external data; the runtime gives ONNX Runtime
that file's bytes in memory.

A language model's weights never get into the models: see `npu_onnx.OutsideWeight`.
"""

from __future__ import annotations

import collections
import hashlib
from collections.abc import Sequence

import onnx

FILE = "weights"  # how the models call it
LEAST_BYTES = 1024  # smaller ones stay: ONNX Runtime wants to see shapes and axes while it loads
_ALIGNMENT = 64


def share(models: Sequence[bytes]) -> tuple[list[bytes], bytes]:
    """The models with what they share left out, and the file of that; empty where there is nothing.

    Models that share nothing are the same bytes as before.
    """
    if len(models) < 2:
        return list(models), b""
    parsed = [onnx.ModelProto.FromString(model) for model in models]
    holders: dict[bytes, set[int]] = collections.defaultdict(set)
    found: list[tuple[int, onnx.TensorProto, bytes]] = []
    for index, model in enumerate(parsed):
        for tensor in model.graph.initializer:
            if len(tensor.raw_data) >= LEAST_BYTES:
                digest = hashlib.sha256(tensor.raw_data).digest()
                holders[digest].add(index)
                found.append((index, tensor, digest))
    file = bytearray()
    places: dict[bytes, int] = {}
    changed = set()
    for index, tensor, digest in found:
        if len(holders[digest]) < 2:
            continue
        if digest not in places:
            file += bytes(-len(file) % _ALIGNMENT)
            places[digest] = len(file)
            file += tensor.raw_data
        _refer(tensor, places[digest])
        changed.add(index)
    shared = [
        parsed[index].SerializeToString() if index in changed else model
        for index, model in enumerate(models)
    ]
    return shared, bytes(file)


def _refer(tensor: onnx.TensorProto, offset: int) -> None:
    entries = {"location": FILE, "offset": str(offset), "length": str(len(tensor.raw_data))}
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
