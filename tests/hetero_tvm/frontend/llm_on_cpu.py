"""Steps of a language model, compiled for the CPU as imported: a session without devices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tvm
from tvm import relax

from hetero_tvm.frontend.cpu_run import compile_for_cpu
from hetero_tvm.frontend.llm_folder import read_llm_folder
from hetero_tvm.frontend.llm_import import LAST, StepImporter
from hetero_tvm.frontend.llm_nodes import PAST
from hetero_tvm.vm_lowering import lower_to_vm


def _compiled(mod: tvm.IRModule) -> relax.VMExecutable:
    return compile_for_cpu(mod, tvm.transform.Sequential(lower_to_vm()))


class CpuSteps:
    """Feeds tokens through imported steps; caches are written in place."""

    def __init__(self, folder: Path, rows: list[int], capacity: int) -> None:
        importer = StepImporter(read_llm_folder(folder))
        self.steps = {n: importer.step(n, capacity) for n in rows}
        self.machines = {
            n: relax.VirtualMachine(_compiled(step.mod), tvm.cpu())
            for n, step in self.steps.items()
        }
        self.caches = {
            spec.name: tvm.runtime.tensor(np.zeros(spec.shape, spec.dtype))
            for spec in next(iter(self.steps.values())).inputs
            if len(spec.shape) == 4
        }
        self.length = 0

    def step(self, rows: int, tokens: list[int]) -> np.ndarray:
        """Append `tokens`, filled up to `rows`; the last one's logits."""
        ids = np.zeros((1, rows), np.int64)
        ids[0, : len(tokens)] = tokens
        given = {
            "input_ids": tvm.runtime.tensor(ids),
            PAST: tvm.runtime.tensor(np.array([self.length], np.int32)),
            LAST: tvm.runtime.tensor(np.array([len(tokens) - 1], np.int32)),
            **self.caches,
        }
        order = [spec.name for spec in self.steps[rows].inputs]
        (logits,) = self.machines[rows]["main"](*(given[name] for name in order))
        self.length += len(tokens)
        return logits.numpy().reshape(-1)
