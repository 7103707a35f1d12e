"""Something to run again and again: an artefact on inputs, or a step of a language model.

`bench` times it and `profile` records it; neither needs to know which of the two it is.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from hetero_tvm import bundle, llm_session, loader, runtime
from hetero_tvm.bundle import Manifest
from hetero_tvm.errors import BadInput, ContextFull, WrongKindOfModel
from hetero_tvm.loader import Around, nothing_around
from hetero_tvm.run import complete_inputs, read_inputs
from hetero_tvm.workload_arguments import PROMPT

Phase = Literal["prefill", "decode"]


class Workload(Protocol):
    """What can be run."""

    manifest: Manifest
    load_seconds: float
    simulated: bool
    length: int | None  # of the inputs, where the artefact is built for several; tokens of a step

    def run(self, around: Around = nothing_around) -> None:
        """Once; returns when all devices are done. `around`: see `Model.call`."""

    def instrument(self, function: Any | None) -> None:
        """See `Model.instrument`."""


class ModelWorkload:
    """An artefact on inputs that are in device memory before."""

    def __init__(self, model: loader.Model, inputs: dict[str, np.ndarray]) -> None:
        self.manifest, self.simulated = model.manifest, model.simulated
        self.load_seconds = model.load_seconds
        self.model = model
        self._fed = model.feed(inputs)
        way = self._fed.way
        self.length = sum(piece.size for piece in way) if way else None

    def run(self, around: Around = nothing_around) -> None:
        """One call."""
        self.model.call(self._fed, around)

    def instrument(self, function: Any | None) -> None:
        """As the model's."""
        self.model.instrument(function)


class LlmWorkload:
    """A prompt of random tokens taken in, or one more token behind it."""

    def __init__(
        self, session: llm_session.LlmSession, phase: Phase, prompt: int, seed: int
    ) -> None:
        if not 1 <= prompt < session.capacity:
            raise ContextFull(
                f"--prompt {prompt}: 1 to {session.capacity - 1} tokens, of the "
                f"{session.capacity} that the artefact holds"
            )
        self.manifest, self.load_seconds = session.manifest, session.load_seconds
        self.simulated = session.simulated
        self.session, self.phase = session, phase
        self.length: int | None = prompt if phase == "prefill" else 1
        drawn = np.random.default_rng(seed).integers(session.description.vocabulary, size=prompt)
        self.prompt = [int(token) for token in drawn]
        session.prefill(self.prompt)

    def run(self, around: Around = nothing_around) -> None:
        """One phase, each time from where it began the first time."""
        self.session.around = around
        try:
            if self.phase == "prefill":
                self.session.reset()
                self.session.prefill(self.prompt)
            else:
                self.session.reset(len(self.prompt))
                self.session.decode(self.prompt[0])
        finally:
            self.session.around = nothing_around

    def instrument(self, function: Any | None) -> None:
        """As the session's."""
        self.session.instrument(function)


def is_llm(path: Path) -> bool:
    """Whether the artefact is a language model; reads its description only.

    Raises:
        BadInput: no artefact.
    """
    return bundle.read_manifest(path, verify=False).llm is not None


def open_model(args: argparse.Namespace) -> ModelWorkload:
    """What the flags of `workload_arguments` ask for.

    Raises:
        BadInput, EnvironmentProblem, DeviceFailure: as loading does; flags that do not fit.
    """
    _check(args)
    if args.prompt is not None:
        raise WrongKindOfModel(f"--prompt: {args.artefact} is no language model; use --length")
    given = read_inputs(args.inputs)
    model = loader.load(args.artefact)
    return ModelWorkload(model, complete_inputs(given, model.manifest, args.seed, args.length))


def open_llm(args: argparse.Namespace, phase: Phase) -> LlmWorkload:
    """As `open_model`, of a language model."""
    _check(args)
    if args.inputs or args.length is not None:
        raise WrongKindOfModel(f"{args.artefact} is a language model: use --prompt TOKENS")
    session = llm_session.load_llm(args.artefact)
    prompt = min(PROMPT, session.capacity - 1) if args.prompt is None else args.prompt
    return LlmWorkload(session, phase, prompt, args.seed)


def _check(args: argparse.Namespace) -> None:
    if args.seed < 0:
        raise BadInput(f"--seed {args.seed}: at least 0")
    if args.device is not None:
        runtime.configure(opencl_device=args.device)
