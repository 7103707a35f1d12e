"""Something to run again and again: an artefact on inputs, or a step of a language model.

`bench` times it and `profile` records it; neither needs to know which of the two it is.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from hetero_tvm import bundle, llm_session, loader, recording, runtime
from hetero_tvm.bundle import Manifest
from hetero_tvm.errors import BadInput, ContextFull, WrongKindOfModel
from hetero_tvm.loader import Around, nothing_around
from hetero_tvm.open_model import opened
from hetero_tvm.recording import Recording
from hetero_tvm.run import complete_inputs, read_inputs
from hetero_tvm.surroundings import Surroundings
from hetero_tvm.workload_arguments import PROMPT, refuse_device_there

Phase = Literal["prefill", "decode"]


class Workload(Protocol):
    """What can be run."""

    manifest: Manifest
    load_seconds: float
    simulated: bool
    length: int | None  # of the inputs, where the artefact is built for several; tokens of a step

    surroundings: Surroundings

    def measure(self) -> float:
        """Milliseconds of one run, until all devices are done."""

    def record(self, runs: int) -> Recording:
        """See `Model.record`."""

    def gpu_name(self) -> str:
        """The OpenCL device that it runs on."""


class ModelWorkload:
    """An artefact on inputs that are in device memory before."""

    def __init__(self, model: loader.Model, inputs: dict[str, np.ndarray]) -> None:
        self.manifest, self.simulated = model.manifest, model.simulated
        self.load_seconds = model.load_seconds
        self.model = model
        self._fed = model.feed(inputs)
        way = self._fed.way
        self.length = sum(piece.size for piece in way) if way else None

        self.surroundings = model.surroundings

    def measure(self) -> float:
        """Of one call, timed where it runs."""
        _, (ms,) = self.model.measure(self._fed, 1)
        return ms

    def record(self, runs: int) -> Recording:
        """As the model's."""
        return self.model.record(self._fed, runs)

    def gpu_name(self) -> str:
        """As the model's machine describes it."""
        return _selected(self.model.gpus())


def _selected(gpus: Sequence[Mapping[str, Any]]) -> str:
    return next((str(gpu["name"]) for gpu in gpus if gpu["selected"]), "no OpenCL device")


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
        self.surroundings = Surroundings()
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

    def measure(self) -> float:
        """Of one phase."""
        start = time.perf_counter()
        self.run()
        return (time.perf_counter() - start) * 1e3

    def record(self, runs: int) -> Recording:
        """Of `run`."""
        return recording.record(self.session, self.run, runs)

    def gpu_name(self) -> str:
        """Of the machine that it runs on, which is this one."""
        return runtime.device_name()


def is_llm(path: Path) -> bool:
    """Whether the artefact is a language model; reads its description only.

    Raises:
        BadInput: no artefact.
    """
    return bundle.read_manifest(path, verify=False).llm is not None


@contextlib.contextmanager
def open_model(args: argparse.Namespace) -> Iterator[ModelWorkload]:
    """What the flags of `workload_arguments` ask for, here or on a device; good in the context.

    Raises:
        BadInput, EnvironmentProblem, DeviceFailure: as loading does; flags that do not fit.
    """
    _check(args)
    if args.prompt is not None:
        raise WrongKindOfModel(f"--prompt: {args.artefact} is no language model; use --length")
    given = read_inputs(args.inputs)
    with opened(args.artefact, args.to, args.root) as model:
        inputs = complete_inputs(given, model.manifest, args.seed, args.length)
        yield ModelWorkload(model, inputs)


def open_llm(args: argparse.Namespace, phase: Phase) -> LlmWorkload:
    """As `open_model`, of a language model."""
    _check(args)
    if args.inputs or args.length is not None:
        raise WrongKindOfModel(f"{args.artefact} is a language model: use --prompt TOKENS")
    if args.to is not None:
        raise WrongKindOfModel(
            f"--to {args.to}: {args.artefact} is a language model: they run here"
        )
    session = llm_session.load_llm(args.artefact)
    prompt = min(PROMPT, session.capacity - 1) if args.prompt is None else args.prompt
    return LlmWorkload(session, phase, prompt, args.seed)


def _check(args: argparse.Namespace) -> None:
    if args.seed < 0:
        raise BadInput(f"--seed {args.seed}: at least 0")
    if args.device is not None:
        refuse_device_there(args.to)
        runtime.configure(opencl_device=args.device)
