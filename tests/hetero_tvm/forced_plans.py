"""Builds with a plan made by hand, whatever the planner would choose."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

from split_programs import legal_cuts, plan_of
from tvm import IRModule

from hetero_tvm import compiler, pipeline, runtime
from hetero_tvm.build_state import State
from hetero_tvm.config import BuildConfig
from relay_passes.op_work import op_name
from relay_passes.plan import Plan
from relay_passes.program import read_program
from target_specs.loader import load_spec

Place = str | tuple[int, int]  # a device, or a cut: axis, and how many elements are the NPU's


def build(
    model: Path,
    artefact: Path,
    plan: Callable[[IRModule], Plan],
    target: str = "host",
    **config: object,
) -> State:
    """Every phase but placing, which `plan` does; writes the artefact."""
    runtime.load()
    state = State(
        config=BuildConfig(model=model, target=target, output=artefact, **config),
        spec=load_spec(target),
        note=lambda line: None,
    )
    for phase in pipeline.PHASES:
        if phase.name == "place":
            state = dataclasses.replace(state, plan=plan(state.mod))
        else:
            state = phase.run(state)
    compiler.write_artefact(artefact, state)
    return state


def by_operator(places: Mapping[str, Place], rest: str = "gpu") -> Callable[[IRModule], Plan]:
    """A place for every operator of a kind, `matmul` or `nn.relu`; a cut only where it is legal."""

    def plan(mod: IRModule) -> Plan:
        nodes, chosen = read_program(mod), []
        for node in nodes:
            place = places.get(op_name(node.call).removeprefix("relax."), rest)
            if isinstance(place, str):
                chosen.append((place, None))
                continue
            cuts = [found for found in legal_cuts(node.call) if _is_at(found[1], place)]
            chosen.append(("gpu+npu", cuts[0]) if cuts else (rest, None))
        return plan_of(nodes, chosen)

    return plan


def _is_at(cut: object, place: tuple[int, int]) -> bool:
    return (cut.axis, cut.at) == place
