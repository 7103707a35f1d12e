"""Something to run again and again: an artefact on inputs, or a step of a language model.

`bench` times it and `profile` records it; neither needs to know which of the two it is.
"""

from __future__ import annotations

import abc
import argparse
import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from hetero_tvm import bundle, loader, recording, runtime
from hetero_tvm.bundle import Manifest
from hetero_tvm.errors import BadInput, ContextFull, WrongKindOfModel
from hetero_tvm.llm_session import LlmSession
from hetero_tvm.loader import Around, nothing_around
from hetero_tvm.open_model import opened, opened_llm
from hetero_tvm.recording import Recording
from hetero_tvm.remote_llm import RemoteLlm
from hetero_tvm.run import complete_inputs, read_inputs
from hetero_tvm.surroundings import Surroundings
from hetero_tvm.token_sequence import TokenSequence
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


class LlmWorkload(abc.ABC):
    """A prompt of random tokens taken in, or one more token behind it."""

    def __init__(self, sequence: TokenSequence, phase: Phase, prompt: int, seed: int) -> None:
        if not 1 <= prompt < sequence.capacity:
            raise ContextFull(
                f"--prompt {prompt}: 1 to {sequence.capacity - 1} tokens, of the "
                f"{sequence.capacity} that the artefact holds"
            )
        self.manifest, self.load_seconds = sequence.manifest, sequence.load_seconds
        self.simulated, self.capacity = sequence.simulated, sequence.capacity
        self.surroundings, self.phase = sequence.surroundings, phase
        self.length: int | None = prompt if phase == "prefill" else 1
        drawn = np.random.default_rng(seed).integers(sequence.description.vocabulary, size=prompt)
        self.prompt = [int(token) for token in drawn]
        sequence.prefill(self.prompt)

    @abc.abstractmethod
    def measure(self) -> float:
        """Milliseconds of one phase, each time from where it began the first time."""

    @abc.abstractmethod
    def record(self, runs: int) -> Recording:
        """Of the same."""

    @abc.abstractmethod
    def answer(self, count: int) -> tuple[float, tuple[float, ...]]:
        """Milliseconds of taking the prompt in, and of each of `count` tokens but the first."""

    @abc.abstractmethod
    def gpu_name(self) -> str:
        """The OpenCL device that it runs on."""


class LlmHere(LlmWorkload):
    """In this process."""

    def __init__(self, session: LlmSession, phase: Phase, prompt: int, seed: int) -> None:
        super().__init__(session, phase, prompt, seed)
        self.session = session

    def run(self, around: Around = nothing_around) -> None:
        """One phase."""
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
        """See `LlmWorkload.measure`."""
        start = time.perf_counter()
        self.run()
        return (time.perf_counter() - start) * 1e3

    def record(self, runs: int) -> Recording:
        """See `LlmWorkload.record`."""
        return recording.record(self.session, self.run, runs)

    def answer(self, count: int) -> tuple[float, tuple[float, ...]]:
        """See `LlmWorkload.answer`."""
        self.session.reset()
        times = []
        for number in range(count):
            start = time.perf_counter()
            if number == 0:
                self.session.prefill(self.prompt)
            else:
                self.session.decode(self.prompt[(number - 1) % len(self.prompt)])
            times.append((time.perf_counter() - start) * 1e3)
        return times[0], tuple(times[1:])

    def gpu_name(self) -> str:
        """See `LlmWorkload.gpu_name`."""
        return runtime.device_name()


class LlmThere(LlmWorkload):
    """On a device, timed and recorded there."""

    def __init__(self, sequence: RemoteLlm, phase: Phase, prompt: int, seed: int) -> None:
        super().__init__(sequence, phase, prompt, seed)
        self._sequence = sequence
        sequence.reset()
        self._prefill = sequence.steps(self.prompt)
        self._past = 0 if phase == "prefill" else prompt
        self._phase_steps = self._prefill if phase == "prefill" else [(1, self.prompt[:1])]

    def measure(self) -> float:
        """See `LlmWorkload.measure`."""
        return sum(self._sequence.measure(self._phase_steps, self._past))

    def record(self, runs: int) -> Recording:
        """See `LlmWorkload.record`."""
        return self._sequence.record(self._phase_steps, self._past, runs)

    def answer(self, count: int) -> tuple[float, tuple[float, ...]]:
        """See `LlmWorkload.answer`."""
        tokens = (self.prompt[number % len(self.prompt)] for number in range(count - 1))
        times = self._sequence.measure([*self._prefill, *((1, [token]) for token in tokens)], 0)
        behind = len(self._prefill)
        return sum(times[:behind]), tuple(times[behind:])

    def gpu_name(self) -> str:
        """See `LlmWorkload.gpu_name`."""
        return _selected(self._sequence.gpus())


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


@contextlib.contextmanager
def open_llm(args: argparse.Namespace, phase: Phase) -> Iterator[LlmWorkload]:
    """As `open_model`, of a language model."""
    _check(args)
    if args.inputs or args.length is not None:
        raise WrongKindOfModel(f"{args.artefact} is a language model: use --prompt TOKENS")
    with opened_llm(args.artefact, args.to, args.root) as sequence:
        prompt = min(PROMPT, sequence.capacity - 1) if args.prompt is None else args.prompt
        if isinstance(sequence, LlmSession):
            yield LlmHere(sequence, phase, prompt, args.seed)
        else:
            assert isinstance(sequence, RemoteLlm)
            yield LlmThere(sequence, phase, prompt, args.seed)


def _check(args: argparse.Namespace) -> None:
    if args.seed < 0:
        raise BadInput(f"--seed {args.seed}: at least 0")
    if args.device is not None:
        refuse_device_there(args.to)
        runtime.configure(opencl_device=args.device)
