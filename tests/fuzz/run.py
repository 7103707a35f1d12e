"""Feed one Python target with what libFuzzer makes up, guided by which branches of ours it takes.

    python tests/fuzz/run.py TARGET [LIBFUZZER FLAGS]       -runs=100000, -max_total_time=60, …

Needs the package atheris (Linux, CPython up to 3.13). What is found on the way is kept in
build/fuzz/corpus; what fails is written to build/fuzz/crashes.
"""

from __future__ import annotations

import logging
import os
import random
import sys
import warnings
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT), str(HERE), str(ROOT / "tests" / "hetero_tvm")]

import atheris  # noqa: E402 - after the path

# Where branches count; TVM and numpy are given and would only slow it down.
_OURS = ["hetero_tvm", "schedules", "relay_passes", "target_specs", "tomllib", "jinja2"]

_JSON = ("manifest", "weights", "requests", "llm_folder", "tokenizer")  # targets of documents


def main() -> None:
    """Set atheris up and let it run; it ends the process."""
    os.environ.setdefault("HETERO_HOST_PROFILE", "shipped")
    name, *flags = sys.argv[1:] or [""]
    import tvm  # noqa: F401 - not to be instrumented, so before

    with atheris.instrument_imports(include=_OURS):
        import targets

        if name not in targets.TARGETS:
            sys.exit(f"no target {name!r}; there are: {', '.join(targets.TARGETS)}")
        target = targets.TARGETS[name]
        for seed in sorted((HERE / "corpus" / name).iterdir())[:3]:
            target(seed.read_bytes())  # what it imports is instrumented
    logging.disable()
    warnings.simplefilter("ignore")
    grown = ROOT / "build" / "fuzz" / "corpus" / name
    grown.mkdir(parents=True, exist_ok=True)
    crashes = ROOT / "build" / "fuzz" / "crashes"
    crashes.mkdir(parents=True, exist_ok=True)
    dictionary = HERE / "dictionaries" / f"{name}.dict"
    words = [f"-dict={dictionary}"] if dictionary.exists() else []
    import json_mutator
    import onnx_mutator

    mutators = {"onnx": onnx_mutator.mutate, **dict.fromkeys(_JSON, json_mutator.mutate)}
    options = {}
    for kind, mutate in mutators.items():
        if name.startswith(kind):
            options["custom_mutator"] = lambda data, size, seed, by=mutate: by(
                data, size, random.Random(seed), atheris.Mutate
            )
    atheris.Setup(
        [
            sys.argv[0],
            f"-artifact_prefix={crashes}/{name}-",
            *("-max_len=4096", "-timeout=20", "-rss_limit_mb=3000"),
            *words,
            *flags,
            str(grown),
            str(HERE / "corpus" / name),
        ],
        target,
        **options,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
