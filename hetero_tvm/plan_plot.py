"""What GPU, NPU and both take for one product, over the sequence length: data, and a picture.

    python -m hetero_tvm.plan --target snapdragon-8-gen-3 --plot products.png

The product is [length, depth] x [depth, columns] with a constant weight, alone in a program: with
the submission of its NPU region and the CPU's wait for the result. No model is needed.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hetero_tvm.errors import BadOutputPath, CannotWrite, MissingPackage
from relay_passes.op_work import Work
from relay_passes.planner.problem import Op, Problem, Waiting
from relay_passes.planner.product_choices import product_choices
from relay_passes.planner.timeline import evaluate
from schedules.cost_model import CostModel
from schedules.npu_costs import Product

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WEIGHTS = ((4096, 4096), (4096, 14336))  # of a language model with eight billion parameters
LONGEST = 1024
_NEAR = 256  # tokens in the close view
_STEP = 32  # what the NPU pads rows to; drawn from both sides, so that its stages are steps
_COLUMNS = 128  # between the cuts by columns that are tried: finer ones are no thicker than a line
_BITS = {"float32": 32, "float16": 16}
_LINES = (
    ("gpu_us", "GPU only", "#d95f02", "-"),
    ("npu_us", "NPU only", "#1b6ca8", "-"),
    ("split_us", "split between both, where it pays", "#2a9d4a", "-"),
)
_DPI = 120


@dataclasses.dataclass(frozen=True, kw_only=True)
class Series:
    """Times over the sequence length, all of one length."""

    depth: int
    columns: int
    lengths: tuple[int, ...]
    gpu_us: tuple[float, ...]
    npu_us: tuple[float, ...]
    split_us: tuple[float, ...]  # the best of all ways, so never above the two others
    kinds: tuple[str, ...]  # of that way: a device, or "weight", "hybrid", "activation"
    gpu_origin: str  # provenance and source of what the GPU's times rest on
    npu_origin: str


def default_lengths() -> tuple[int, ...]:
    """1, then every multiple of 16 up to `LONGEST`, and what follows each of the NPU's steps."""
    tens = range(_STEP // 2, LONGEST + 1, _STEP // 2)
    after = range(_STEP + 1, LONGEST, _STEP)
    return tuple(sorted({1, *tens, *after}))


def product_series(
    costs: CostModel, depth: int, columns: int, dtype: str, lengths: Sequence[int] = ()
) -> Series:
    """Predicted times of `[length, depth] x [depth, columns]` for every length.

    Args:
        costs: of the target.
        depth: what is summed over.
        columns: output channels.
        dtype: of the weight and the activation, "float32" or "float16".
        lengths: ascending; `default_lengths` where there are none.
    """
    lengths = tuple(lengths) or default_lengths()
    bits = _BITS[dtype]
    waits = costs.waiting(element_bytes=bits // 8)
    waiting = Waiting(
        wait_us=waits.wait_us,
        region_us=waits.region_us,
        border_us_per_byte=waits.border_us_per_byte,
    )

    def us(device: str, rows: int, columns: int, *, both: bool = False) -> float:
        return costs.product_us(device, rows, depth, columns, weight_bits=bits, both=both)

    found = []
    for rows in lengths:
        choices = product_choices(
            rows, columns, us, tile=_COLUMNS, lengths=_compiled(costs, lengths[-1]), inputs=0
        )
        gpu, npu, *splits = choices
        best = min(splits, key=lambda choice: max(choice.us.values()), default=gpu)
        op = Op((gpu, npu, best), (), rows * columns * bits // 8, True, True)
        times = [evaluate(Problem((op,), waiting), [n]).total_us for n in range(3)]
        fastest = min(range(3), key=times.__getitem__)
        found.append((times, op.choices[fastest]))
    work = _work(lengths[-1], depth, columns, bits)
    return Series(
        depth=depth,
        columns=columns,
        lengths=lengths,
        gpu_us=tuple(times[0] for times, _ in found),
        npu_us=tuple(times[1] for times, _ in found),
        split_us=tuple(min(times) for times, _ in found),
        kinds=tuple(choice.kind or choice.device for _, choice in found),
        gpu_origin=_origin(costs, work, "gpu"),
        npu_origin=_origin(costs, work, "npu"),
    )


def _compiled(costs: CostModel, longest: int) -> tuple[int, ...]:
    """An NPU graph for each of its own steps; one that pads to none takes any length."""
    tile = costs.spec.npu.tile
    return tuple(range(tile, longest + tile, tile)) if tile > 1 else ()


def products(dtype: str) -> list[Product]:
    """What an estimate is needed of for the series of `WEIGHTS`."""
    return [Product(LONGEST, depth, columns, _BITS[dtype]) for depth, columns in WEIGHTS]


def check(path: Path) -> None:
    """Say now what would otherwise be found out after the work.

    Raises:
        BadInput: the name does not end in `.png`, or its folder does not exist.
        EnvironmentProblem: matplotlib is not installed.
    """
    if path.suffix.lower() != ".png":
        raise BadOutputPath(
            f"--plot {path}: the picture is a PNG; name it so, as in {path.stem}.png"
        )
    if not path.parent.is_dir():
        raise BadOutputPath(f"--plot {path}: the folder {path.parent} does not exist")
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingPackage(
            "--plot needs matplotlib, which is not installed; run: pip install 'hetero-tvm[plot]'"
        )


def draw(path: Path, target: str, dtype: str, series: Sequence[Series]) -> None:
    """Write the picture of `series` as PNG.

    Requires: `check(path)`.

    Raises:
        EnvironmentProblem: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4 * len(series), 9.0), dpi=_DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for column, one in zip(figure.subplots(2, len(series), squeeze=False).T, series, strict=True):
        _panel(column[0], one, LONGEST)
        _panel(column[1], one, _NEAR)
    figure.suptitle(f"{target}: one {dtype} matrix product on GPU, NPU and both")
    origins = dict.fromkeys(f"GPU {s.gpu_origin}. NPU {s.npu_origin}." for s in series)
    caption = "Predicted, with submission and the wait for the result. " + " ".join(origins)
    figure.supxlabel(textwrap.fill(caption, 95 * len(series)), fontsize=8, color="#444444")
    try:
        canvas.print_png(str(path), metadata={"Software": None})
    except OSError as error:
        raise CannotWrite(f"cannot write {path}: {error.strerror or error}") from error


def _panel(axes: Axes, series: Series, longest: int) -> None:
    """Up to a length; from close by the faster device fills the height, so that steps show."""
    for name, label, colour, style in _LINES:
        axes.plot(
            series.lengths,
            [us / 1e3 for us in getattr(series, name)],
            style,
            color=colour,
            label=label,
            linewidth=1.6,
        )
    axes.set_title(f"weight {series.depth} × {series.columns}, up to {longest} tokens")
    axes.set_xlabel("sequence length (tokens)")
    axes.set_ylabel("time (ms)")
    axes.set_xlim(0, longest)
    axes.set_xticks(range(0, longest + 1, longest // 8))
    inside = [i for i, length in enumerate(series.lengths) if length <= longest]
    single = (max(us[i] for i in inside) for us in (series.gpu_us, series.npu_us))
    axes.set_ylim(0, 1.6 * min(single) / 1e3 if longest == _NEAR else None)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right" if longest == _NEAR else "upper left")


def _work(rows: int, depth: int, columns: int, bits: int) -> Work:
    size = bits // 8
    weights, result = depth * columns * size, rows * columns * size
    return Work(
        kind="matmul",
        macs=rows * depth * columns,
        bytes=weights + result + rows * depth * size,
        weight_bytes=weights,
        output_bytes=result,
        element_bytes=size,
        rows=rows,
        depth=depth,
        columns=columns,
    )


def _origin(costs: CostModel, work: Work, device: str) -> str:
    provenance = costs.provenance(work, device)
    if device == "npu" and provenance != "modelled":
        dtype = "float32" if work.element_bytes == 4 else "float16"
        return f"{provenance}: {costs.npu_matmul(work.rows, work.depth, work.columns, dtype).why}"
    figure = costs.origin(work, device)
    return f"{provenance}, rate {figure.provenance}: {figure.source}"
