"""Hashes of plans and kernels of a few fixed models: what a refactoring must leave as it is.

    python tests/golden/golden.py            says what changed; exit code 1 where something did
    python tests/golden/golden.py --accept   writes the hashes of now: `make golden`

Of a plan: who takes which operator, and where it is cut. Of a kernel: its scheduled TIR.
Of a region: its ONNX nodes. Nothing of this machine: shipped figures, no vendor's estimates.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
FILE = HERE / "hashes.json"
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "hetero_tvm")]
os.environ["HETERO_HOST_PROFILE"] = "shipped"
os.environ["HETERO_ESTIMATE"] = "off"

TARGETS = ("host", "snapdragon-8-gen-3")
DEVICES = ("gpu+npu", "gpu")
_LEFT_OUT = ("measure", "compile_npu", "share_npu", "codegen")  # vendors' and machines' own


def models(folder: Path) -> dict[str, tuple[Path, dict[str, tuple[int, ...]]]]:
    """Name -> file and input shapes."""
    import tiny_models as tiny

    return {
        "mlp": (tiny.residual_mlp(folder / "mlp.onnx", rows=64, wide=256), {}),
        "attention": (tiny.attention(folder / "a.onnx"), {"ids": (1, 24), "mask": (1, 24)}),
    }


def hashes() -> dict[str, str]:
    """`model / target / devices / plan`, `… / kernel NAME` or `… / region NAME` -> hash."""
    from hetero_tvm import pipeline
    from hetero_tvm.build_state import State
    from hetero_tvm.config import BuildConfig
    from hetero_tvm.frontend import InputSpec
    from target_specs.loader import load_spec

    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (path, shapes) in models(Path(folder)).items():
            for target, devices in itertools.product(TARGETS, DEVICES):
                config = BuildConfig(
                    model=path,
                    target=target,
                    output=None,
                    devices=devices,
                    inputs={n: InputSpec(name=n, shape=shape) for n, shape in shapes.items()},
                    estimate=False,
                    measure=False,
                    check=False,
                )
                state = State(config=config, spec=load_spec(target), note=lambda line: None)
                for phase in pipeline.PHASES:
                    if phase.name not in _LEFT_OUT:
                        state = phase.run(state)
                where = f"{name} / {target} / {devices}"
                found |= {f"{where} / {what}": value for what, value in _of(state).items()}
    return found


def _of(state) -> dict[str, str]:
    import onnx
    from tvm import tirx

    found = {"plan": _hash(_plan(state.plan))}
    for var, func in state.mod.functions_items():
        if isinstance(func, tirx.PrimFunc):
            found[f"kernel {var.name_hint}"] = _hash(func.script(show_meta=False))
    for region in state.regions:
        graph = onnx.load_from_string(region.onnx).graph
        nodes = [[node.op_type, list(node.input), list(node.output)] for node in graph.node]
        found[f"region {region.symbol}"] = _hash(json.dumps(nodes))
    return found


def _plan(plan) -> str:
    """What is decided; times are figures, which change with every measurement."""
    rows = []
    for op in plan.to_dict()["ops"]:
        split = op["split"] or {}
        rows.append([op["name"], op["device"], split.get("at"), split.get("extent")])
    return json.dumps(rows)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def changes(old: dict[str, str], new: dict[str, str]) -> list[str]:
    """A line for each hash that is not what it was."""
    lines = [f"changed: {name}" for name in old if name in new and old[name] != new[name]]
    lines += [f"gone:    {name}" for name in old if name not in new]
    return lines + [f"new:     {name}" for name in new if name not in old]


def main() -> int:
    """Compare, or accept."""
    new = hashes()
    old = json.loads(FILE.read_text()) if FILE.exists() else {}
    lines = changes(old, new)
    print("\n".join(lines) or f"{len(new)} hashes as they were")
    if "--accept" in sys.argv[1:]:
        FILE.write_text(json.dumps(new, indent=1, sort_keys=True) + "\n")
        return 0
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
