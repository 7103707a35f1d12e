"""The programs that a search is for, and their GPU kernels.

One for a model, one for each length of `--length`, or every step of a language model's folder:
their kernels together, equal ones once.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping

from hetero_tvm import compiler, pipeline, tuning
from hetero_tvm.arguments import is_folder, model_config, read_lengths, read_steps
from hetero_tvm.config import BuildConfig
from hetero_tvm.llm_steps import step_configs
from hetero_tvm.progress import Progress
from schedules.cost_model import CostModel
from schedules.tuner import Job


def configs_of(args: argparse.Namespace) -> dict[str, BuildConfig]:
    """What the flags ask for: the name of a program -> its build.

    Raises:
        BadInput: flags that do not go together, or that cannot be read.
    """
    if is_folder(args):
        return _steps(args)
    if args.length is None:
        return {"": model_config(args, output=None)}
    lengths = read_lengths(args.length)
    return {str(n): model_config(args, output=None, length=n) for n in lengths}


def _steps(args: argparse.Namespace) -> dict[str, BuildConfig]:
    configs = step_configs(model_config(args, output=None), *read_steps(args))
    return {str(rows): config for rows, config in configs.items()}


def jobs_of(configs: Mapping[str, BuildConfig], costs: CostModel, progress: Progress) -> list[Job]:
    """The kernels of all programs; `calls` are those of one run of each."""
    names = [phase.name for phase in pipeline.PHASES]
    cut = names.index("measure")
    first, measure = pipeline.PHASES[:cut], pipeline.PHASES[cut]
    # No NPU kernel is needed here, and compiling them takes long.
    then = [
        phase
        for phase in pipeline.PHASES[cut + 1 : names.index("lower_gpu")]
        if phase.name != "compile_npu"
    ]
    progress.begin(
        {
            f"{phase.name} {name}".strip(): phase.weight
            for name in configs
            for phase in (*first, measure, *then)
        }
    )
    jobs: dict[str, Job] = {}
    for name, config in configs.items():
        step = f"{{}} {name}".strip()
        placed, _ = compiler.run_phases(config, costs, first, progress, step=step)
        measured, _ = compiler.run_phases(
            config, costs, [measure], progress, start=placed, step=step
        )
        followed = dataclasses.replace(placed, plan=measured.plan)
        state, _ = compiler.run_phases(config, costs, then, progress, start=followed, step=step)
        for job in tuning.jobs_of(state):
            before = jobs.get(job.kernel.key)
            calls = job.calls + (before.calls if before is not None else 0)
            jobs[job.kernel.key] = dataclasses.replace(before or job, calls=calls)
    return list(jobs.values())
