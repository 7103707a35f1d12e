"""The steps of a language model's folder: one build's configuration for each."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from hetero_tvm import frontend
from hetero_tvm.config import BuildConfig, LlmStep
from hetero_tvm.errors import BadInput, WrongKindOfModel
from hetero_tvm.frontend.llm_folder import LlmFolder

DECODE = 1
PREFILL = (32, 128)  # chunks of prompts, in tokens
DEFAULT_CAPACITY = 2048  # where the model allows so much


def step_configs(
    config: BuildConfig, prefill: Sequence[int] | None = None, capacity: int | None = None
) -> dict[int, BuildConfig]:
    """New tokens of a step -> its configuration, the fewest first; decoding's one is always there.

    Args:
        config: its `model` is the folder.
        prefill: numbers of tokens that prompts are taken in; `PREFILL` where None.
        capacity: longest sequence, prompt and answer together; the least of `DEFAULT_CAPACITY` and
            the model's own where None.

    Raises:
        BadInput: a folder that cannot be read, or flags that make no sense for one.
    """
    if config.inputs:
        raise WrongKindOfModel(
            f"--input: {config.model} is a language model's folder, which takes none"
        )
    folder = frontend.read_llm_folder(config.model)
    positions = checked_capacity(folder, capacity)
    if config.dtype != "float32":
        raise BadInput(f"--dtype {config.dtype}: language models are stored as their file has them")
    config = dataclasses.replace(config, model=folder.model, measure=False)
    importer = frontend.StepImporter(folder)
    # Where a file joins caches, something must be there for new rows to be joined to.
    steps = {DECODE, *(min(rows, positions - 1) for rows in prefill or PREFILL)}
    return {
        rows: dataclasses.replace(
            config, llm=LlmStep(importer=importer, rows=rows, capacity=positions)
        )
        for rows in sorted(steps)
    }


def checked_capacity(folder: LlmFolder, asked: int | None) -> int:
    """Positions of the caches."""
    if asked is None:
        return min(DEFAULT_CAPACITY, folder.context)
    if not 2 <= asked <= folder.context:
        raise BadInput(
            f"--context {asked}: the model takes 2 to {folder.context} tokens in one sequence"
        )
    return asked
