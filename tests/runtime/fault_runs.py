"""Faults at every call into OpenCL and ONNX Runtime, one after the other, and what became of each.

    python tests/runtime/fault_runs.py [--runs 1000] [--seed 0] [--every-call] [--memory svm]

Each run loads a model whose work is split between GPU and NPU, or runs it, while one call fails,
lies, is late or hangs; then runs it once more. Right or a clear error, in time, and right the next
time: anything else is printed, and is the exit code.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fault_shims
import numpy as np
from runtime_harness import HERE, ROOT

MEMORIES = ("svm", "dma_buf", "coarse_svm", "buffer")
LIMIT_S = 5  # HETERO_DEVICE_LIMIT_S where something hangs; what does not may take longer there
PATIENCE_S = 90  # for what ends after some of these limits, on a loaded machine

# What a driver may say: out of memory of three kinds, device gone, broken compiler, bad arguments.
CODES = (-2, -4, -5, -6, -11, -30, -36, -48, -1234)
KINDS = ("fail", "lie", "delay", "hang")
_WAYS = ((True, False), (False, False), (False, True))  # loading, tracing
# Called while a process opens its devices, and never again.
OPENING = re.compile(
    "clGet(Platform|Device).*|clCreate(Context|CommandQueue)|CreateEnv|CreateCpuMemoryInfo"
)
# Whether these did what they say cannot be seen without computing everything twice.
COMPUTING = re.compile(
    "clEnqueueNDRangeKernel|clSetKernelArg.*|clWaitForEvents|clFinish|clEnqueueMarkerWithWaitList"
    "|clEnqueue(SVM)?(Map|Unmap).*"
)


def libraries() -> dict[str, str]:
    """The real libraries' paths, by the variables under which shims look for them."""
    from hetero_tvm import runtime

    paths = runtime.library_paths()
    opencl = os.environ.get("HETERO_OPENCL_LIB") or runtime.opencl_devices()[0]["library"]
    return {"FAULT_REAL_OPENCL": str(opencl), "FAULT_REAL_ORT": str(paths["ort.library"])}


def _driver(memory: str) -> dict[str, str]:
    """Variables for a driver that has `memory`, where the machine's own has not."""
    if memory != "dma_buf":
        return {}
    import dma_buf_shims  # it needs this module

    return dma_buf_shims.variables()


def build(folder: Path, seed: int = 0) -> Path:
    """The model, with inputs and right outputs beside it; `seed` is of the inputs."""
    tests = HERE.parent  # which pytest sets by itself
    sys.path += [str(ROOT), str(tests / "hetero_tvm"), str(tests / "relay_passes")]
    import forced_plans
    import tiny_models as tiny
    from split_models import CASES

    # Four rows of each tensor fill multiples of the alignment that buffers ask for.
    rows = {"matmul": (0, 4), "add": (0, 4), "nn.relu": "npu"}
    case = dataclasses.replace(CASES["activation_joined_for_the_npu"], places=rows)
    onnx = case.write(folder / "model.onnx")
    artefact = folder / "model.so"
    forced_plans.build(onnx, artefact, forced_plans.by_operator(case.places))
    x = np.random.default_rng(seed).standard_normal((case.rows, 32), np.float32)
    outputs = tiny.run_with_onnxruntime(onnx, x=x)
    stored = {"in x": x, **{f"out {k}": v for k, v in outputs.items()}}
    np.savez(artefact.with_suffix(".npz"), **stored)
    return artefact


class Subject:
    """`fault_subject.py` in a process of its own."""

    def __init__(
        self, artefact: Path, memory: str = "svm", limit_s: float = PATIENCE_S, **variables: str
    ) -> None:
        self._cache = tempfile.TemporaryDirectory()
        path = os.pathsep.join([str(ROOT), str(HERE), os.environ.get("PYTHONPATH", "")])
        self._log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "fault_subject.py"), str(artefact)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={
                **os.environ,
                "PYTHONPATH": path,
                "HETERO_OPENCL_LIB": str(fault_shims.opencl_shim()),
                "HETERO_ORT_LIB": str(fault_shims.ort_shim()),
                "HETERO_OPENCL_MEMORY": memory,
                "HETERO_CACHE_DIR": self._cache.name,
                "HETERO_DEVICE_LIMIT_S": str(limit_s),
                **libraries(),
                **_driver(memory),
                **variables,
            },
        )

    def ask(self, **request: Any) -> dict[str, Any] | None:
        """The answer; None where the process ended, or had to be ended after PATIENCE_S."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        timer = threading.Timer(PATIENCE_S, self.process.kill)
        timer.start()
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        timer.cancel()
        if not line:
            self.process.wait()
            return None
        answer: dict[str, Any] = json.loads(line)
        return answer

    def said(self) -> str:
        """Its standard error so far."""
        self._log.seek(0)
        return self._log.read()

    def close(self) -> int:
        """End it; its exit code."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            code = self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self._cache.cleanup()
        return code


@dataclasses.dataclass(frozen=True)
class Fault:
    """One call that goes wrong, and while what."""

    call: str
    nth: int
    kind: str
    value: int
    load: bool
    trace: bool
    memory: str

    @property
    def request(self) -> dict[str, Any]:
        """What a subject is asked for."""
        library = "opencl" if self.call.startswith("cl") else "ort"
        plan = f"{self.call} {self.nth} {self.kind} {self.value}"
        return {library: plan, "load": self.load, "trace": self.trace}

    def __str__(self) -> str:
        words = ", ".join(
            ([] if not self.load else ["loading"]) + ([] if not self.trace else ["tracing"])
        )
        plan = f"{self.call} {self.nth} {self.kind} {self.value}"
        return f"{plan} ({self.memory}{', ' + words if words else ''})"


def judge(fault: Fault, answer: dict[str, Any] | None, subject: Subject) -> str:
    """What is wrong with how it ended; empty when nothing is."""
    if answer is None:
        said, code = subject.said(), subject.process.returncode
        named = f"{fault.call} has not come back" in said or f" {fault.call} has not" in said
        if fault.kind == "hang" and code == 4 and named:
            return ""
        return f"the process ended with {code}: {said.strip().splitlines()[-1:]}"
    for when in ("under", "after"):
        ended = answer[when]
        if ended["outcome"] in ("wrong", "odd"):
            return f"{when}: {ended['outcome']} {ended.get('kind')}: {ended.get('message')}"
        if ended["seconds"] > PATIENCE_S / 2:
            return f"{when}: took {ended['seconds']:.1f} s"
    if answer["under"]["outcome"] == "error" and (what := unclear(fault, answer["under"])):
        return what
    if answer["after"]["outcome"] != "right":
        return f"the next call failed: {answer['after']['message']}"
    return ""


def unclear(fault: Fault, ended: dict[str, Any]) -> str:
    """What an error does not say."""
    message = ended["message"]
    if "\n" in message and "does not compile" not in message:
        return f"an error of several lines: {message!r}"
    bare = fault.call.removeprefix("cl")
    # What a lie breaks is found later, by another call.
    if fault.call not in message and bare not in message and fault.kind == "fail":
        return f"the error does not name {fault.call}: {message}"
    has_code = fault.call.startswith("cl") and fault.call != "clSVMAlloc"
    if fault.kind == "fail" and has_code and str(fault.value) not in message:
        return f"the error does not say {fault.value}: {message}"
    if ";" not in message:
        return f"the error does not say what to do: {message}"
    return ""


class Runner:
    """Runs faults, in as few processes as will do."""

    def __init__(self, artefact: Path) -> None:
        self._artefact = artefact
        self._subjects: dict[str, Subject] = {}
        self.outcomes: Counter[str] = Counter()
        self.processes = 0

    def _subject(self, memory: str, *, fresh: bool = False, limit_s: float = PATIENCE_S) -> Subject:
        if fresh and memory in self._subjects:
            self._subjects.pop(memory).close()
        if memory not in self._subjects:
            self._subjects[memory] = Subject(self._artefact, memory, limit_s)
            self.processes += 1
        return self._subjects[memory]

    def _counts(self, memory: str, *, load: bool, trace: bool) -> dict[str, int]:
        answer = self._subject(memory).ask(load=load, trace=trace)
        assert answer is not None, self._subject(memory).said()
        assert answer["under"]["outcome"] == "right", answer
        counts: dict[str, int] = answer["counts"]
        return counts

    def way_counts(self, memory: str, load: bool, trace: bool) -> dict[str, int]:
        """How often each call happens; where it loads, of a process's first run."""
        if load:
            self._subject(memory, fresh=True)
        return self._counts(memory, load=load, trace=trace)

    def run(self, fault: Fault) -> str:
        """What is wrong with how it ended; empty when nothing is."""
        # What opens devices happens once in a process; what hangs leaves the NPU lost.
        fresh = OPENING.fullmatch(fault.call) is not None or fault.kind == "hang"
        limit_s = LIMIT_S if fault.kind == "hang" else PATIENCE_S
        subject = self._subject(fault.memory, fresh=fresh, limit_s=limit_s)
        if fresh and not fault.load:
            subject.ask(load=True)
        answer = subject.ask(**fault.request)
        wrong = judge(fault, answer, subject)
        outcome = "ended" if answer is None else answer["under"]["outcome"]
        self.outcomes[f"{fault.kind}: {outcome}"] += 1
        if wrong or answer is None or fresh:
            self._subjects.pop(fault.memory).close()
        return wrong

    def close(self) -> dict[str, int]:
        """End all processes; exit codes by memory."""
        return {memory: subject.close() for memory, subject in self._subjects.items()}


def values(call: str, kind: str, chance: random.Random) -> int:
    """A value for a fault of `kind`."""
    if kind == "fail":
        return chance.choice(CODES)
    if kind == "lie":
        return 1 if COMPUTING.fullmatch(call) else chance.choice((0, 1, 2))
    return {"delay": 20, "hang": 0}[kind]


def every_call(runner: Runner, memory: str, kinds: Sequence[str]) -> list[Fault]:
    """For each call that happens: its first, a middle and its last time, with every kind."""
    found = []
    chance = random.Random(memory)
    for load, trace in _WAYS:
        counts = runner.way_counts(memory, load, trace)
        for call, count in counts.items():
            for kind in kinds:
                if kind == "lie" and call == "Run":
                    continue  # see COMPUTING; ONNX Runtime has no codes to be wrong
                places = {1, count} if OPENING.fullmatch(call) else {1, (count + 1) // 2, count}
                for nth in sorted(places) if count else ():
                    found.append(
                        Fault(call, nth, kind, values(call, kind, chance), load, trace, memory)
                    )
    return found


def seeded(
    runner: Runner,
    runs: int,
    seed: int,
    kinds: Sequence[str] = KINDS,
    memories: Sequence[str] = MEMORIES,
) -> list[Fault]:
    """Random faults, hangs seldom, because each costs a process."""
    chance = random.Random(seed)
    ways = [(memory, *way) for memory in memories for way in _WAYS]
    counts = {}
    for memory, load, trace in ways:
        found = runner.way_counts(memory, load, trace)
        counts[memory, load, trace] = [(c, n) for c, n in found.items() if n]
    faults = []
    weights = [1 if kind == "hang" else 10 for kind in kinds]
    for _ in range(runs):
        memory, load, trace = chance.choice(ways)
        calls = counts[memory, load, trace]
        # A tenth of the weight for what costs a process.
        rare = [1 if OPENING.fullmatch(call) else 10 for call, _ in calls]
        ((call, count),) = chance.choices(calls, rare)
        (kind,) = chance.choices(kinds, weights)
        if kind == "lie" and call == "Run":  # see COMPUTING; ONNX Runtime has no odd codes
            kind = "fail"
        value = values(call, kind, chance)
        faults.append(Fault(call, chance.randint(1, count), kind, value, load, trace, memory))
    return sorted(faults, key=lambda fault: fault.memory)


def survive(runner: Runner, faults: Sequence[Fault], said: Any = None) -> list[str]:
    """Run them all; what went wrong."""
    wrong = []
    for fault in faults:
        what = runner.run(fault)
        if what:
            wrong.append(f"{fault}: {what}")
            if said is not None:
                print(wrong[-1], file=said, flush=True)
    return wrong


def main() -> int:
    """Run faults; exit code 1 when one is not survived."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every-call", action="store_true", help="each call and kind, not random")
    parser.add_argument("--memory", choices=MEMORIES, default="svm", help="with --every-call")
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=KINDS)
    parser.add_argument("--only", default="", help="regular expression on calls")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(build(Path(folder)))
        if args.every_call:
            faults = every_call(runner, args.memory, args.kinds)
        else:
            faults = seeded(runner, args.runs, args.seed, args.kinds)
        faults = [fault for fault in faults if re.search(args.only, fault.call)]
        wrong = survive(runner, faults, sys.stdout)
        runner.close()
    for outcome, count in sorted(runner.outcomes.items()):
        print(f"{outcome:20} {count}")
    print(f"{len(faults)} faults in {runner.processes} processes, {len(wrong)} not survived")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
