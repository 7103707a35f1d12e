"""What Qualcomm's compiler estimates a region to take on the NPU; no NPU is needed.

While it compiles for a SoC of which it has a cost table, the compiler writes its estimate into the
profile. No phone or PC SoC has one, so a *proxy* of the nearest Hexagon generation is compiled for,
with the target's on-chip memory, and its time is scaled. Trust steps, order and shape effects and
bytes more than the absolute rate: the scale makes two plain matmuls run at the target spec's own
`matmul_gflops`, which is the figure that `cost_model` computes with, too. There is no submission,
driver or contention in it.

Requires: static, self-contained ONNX models.
Ensures:  the same model gives the same estimate; what was estimated, or refused, once is read from
          the cache. A compiler that crashed or took too long is asked again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import statistics
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from schedules.npu_profile import NoEstimate, Profile, profile_models
from target_specs.spec import NpuSpec

logger = logging.getLogger(__name__)

_ANCHOR_ROWS = (128, 256)  # [rows, 4096] x [4096, 4096] in float16
_ANCHOR_SIDE = 4096


class EstimateUnavailable(ValueError):
    """No estimate can be had for this NPU, or on this machine: why, and what to do."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Proxy:
    """A SoC of which the compiler has a cost table."""

    name: str
    soc_model: int
    htp_arch: int
    anchor_us: tuple[float, float]  # estimates of the anchors, 8 MiB of on-chip memory, QNN 2.51
    # What a product alone is estimated at above one more in a chain of five: alone_us and its
    # activations at dma_gbps. To 15 % on [128,K]x[K,K], K from 384 to 4096, in float16.
    alone_us: float
    dma_gbps: float  # bytes a cycle x clock, as the compiler's trace has them


_V73 = Proxy(
    name="QCS9100",
    soc_model=77,
    htp_arch=73,
    anchor_us=(1151.0, 2919.0),
    alone_us=10.0,
    dma_gbps=46.0,
)
_V81 = Proxy(
    name="SA8797", soc_model=72, htp_arch=81, anchor_us=(515.0, 593.0), alone_us=9.0, dma_gbps=68.3
)
_SAME = "the same Hexagon generation"
_BYTES = "the same bytes to and from memory on [128,4096]x[4096,4096] and [512,4096]x[4096,14336]"
_PROXIES: Mapping[int | None, tuple[Proxy, str]] = {  # generation -> proxy, why this one
    73: (_V73, _SAME),
    75: (_V73, f"there is no table of v75; v73 comes before it and moves {_BYTES}"),
    79: (
        _V73,
        f"there is no table of v79; v73, v79 and v81 all move {_BYTES}, which does not decide; "
        "v73, because the spec's figures of v79 are scaled from v75's, which come from this table",
    ),
    81: (_V81, _SAME),
}


@dataclasses.dataclass(frozen=True)
class Scale:
    """From the proxy's time to the target's."""

    factor: float
    rule: str  # with its sources


@dataclasses.dataclass(frozen=True, kw_only=True)
class NpuEstimate:
    """One model's estimate."""

    proxy: Proxy
    proxy_why: str
    profile: Profile
    scale: Scale
    cached: bool

    @property
    def us(self) -> float:
        """Scaled to the target."""
        return self.profile.us * self.scale.factor

    @property
    def interval_us(self) -> tuple[float, float]:
        """The compiler's lower and upper estimate, scaled like `us`."""
        return self.profile.low_us * self.scale.factor, self.profile.high_us * self.scale.factor


def proxy_for(npu: NpuSpec) -> tuple[Proxy, str]:
    """The SoC whose cost table stands for `npu`, and why that one.

    Raises:
        EstimateUnavailable: `npu` is not Qualcomm's, or of a generation without a proxy.
    """
    if npu.provider != "qnn":
        raise EstimateUnavailable(f"{npu.name}: Qualcomm's compiler estimates only its own NPUs")
    if npu.htp_arch not in _PROXIES:
        known = ", ".join(f"v{arch}" for arch in _PROXIES)
        raise EstimateUnavailable(
            f"{npu.name}: no SoC with a cost table is near v{npu.htp_arch}; "
            f"there is one for {known}"
        )
    return _PROXIES[npu.htp_arch]


def scale_to(npu: NpuSpec, proxy: Proxy) -> Scale:
    """How the proxy's times become those of `npu`."""
    macs = [rows * _ANCHOR_SIDE**2 for rows in _ANCHOR_ROWS]
    rates = [2 * m / us / 1e3 for m, us in zip(macs, proxy.anchor_us, strict=True)]
    rate = statistics.geometric_mean(rates)
    origin = npu.origin("matmul_gflops")
    factor = rate / npu.matmul_gflops
    return Scale(
        factor,
        f"x {factor:.2f}: {proxy.name} is estimated at {rate:.0f} GFLOP/s in float16 on "
        f"[128,4096]x[4096,4096] and [256,4096]x[4096,4096] (geometric mean), {npu.name} has "
        f"{npu.matmul_gflops:g} ({origin.provenance}: {origin.source})",
    )


def estimate_models(
    models: Mapping[str, bytes],
    npu: NpuSpec,
    *,
    cache_dir: Path | None,
    progress: Callable[[str], None] = lambda line: None,
    timeout_s: float = 600.0,
    weight_bytes: int = 0,
    trace: bool = False,
) -> dict[str, NpuEstimate | NoEstimate]:
    """Estimate every model on `npu`; keys as in `models`.

    Args:
        models: name -> ONNX model.
        npu: the target's NPU.
        cache_dir: where estimates are kept; None keeps none.
        progress: called with a line whenever a model is done.
        timeout_s: for one model, after which the compiler is ended.
        weight_bytes: of random weights in a file beside the models; see `profile_models`.
        trace: also say what of the time each node takes, `Profile.node_shares`.

    Raises:
        EstimateUnavailable: see `proxy_for`; or onnxruntime-qnn is not installed.
    """
    proxy, why = proxy_for(npu)
    if importlib.util.find_spec("onnxruntime_qnn") is None:
        raise EstimateUnavailable(
            "onnxruntime-qnn is not installed; run: pip install 'hetero-tvm[qnn]'"
        )
    options = _options(npu, proxy)
    keys = {name: _key(onnx, options, trace) for name, onnx in models.items()}
    known = {key: _read_cache(cache_dir, key) for key in set(keys.values())}
    waiting = {keys[name]: onnx for name, onnx in models.items() if known[keys[name]] is None}
    fresh = profile_models(
        waiting, options, timeout_s, progress, weight_bytes=weight_bytes, trace=trace
    )
    for key, answer in fresh.items():
        if isinstance(answer, Profile) or answer.refused:
            _write_cache(cache_dir, key, answer)
    scale = scale_to(npu, proxy)
    results: dict[str, NpuEstimate | NoEstimate] = {}
    for name, key in keys.items():
        found = known[key] or fresh[key]
        results[name] = (
            found
            if isinstance(found, NoEstimate)
            else NpuEstimate(
                proxy=proxy, proxy_why=why, profile=found, scale=scale, cached=key not in fresh
            )
        )
    return results


def _options(npu: NpuSpec, proxy: Proxy) -> dict[str, str]:
    return {
        "soc_model": str(proxy.soc_model),
        "vtcm_mb": str(npu.vtcm_mb or 8),  # what every phone and PC part since v73 has
        "htp_graph_finalization_optimization_mode": "3",  # as builds compile
    }


# --- cache -------------------------------------------------------------------------------------


def _key(onnx: bytes, options: Mapping[str, str], trace: bool) -> str:
    versions = [importlib.metadata.version(p) for p in ("onnxruntime", "onnxruntime-qnn")]
    what = json.dumps([versions, options, *(["traced"] if trace else [])], sort_keys=True)
    return hashlib.sha256(what.encode() + b"\0" + onnx).hexdigest()


def _read_cache(cache_dir: Path | None, key: str) -> Profile | NoEstimate | None:
    """What is kept under `key`; None when there is nothing, or it is damaged."""
    path = _cache_path(cache_dir, key)
    if path is None or not path.is_file():
        return None
    try:
        entry = json.loads(path.read_bytes())
        kind, make = ("refusal", NoEstimate) if "refusal" in entry else ("profile", Profile)
        if entry["sha256"] != _digest(entry[kind]):
            raise ValueError("another checksum")
        return make(**entry[kind])
    except (ValueError, TypeError, KeyError) as error:
        logger.warning("%s is damaged (%s); estimating again", path, error)
        return None


def _write_cache(cache_dir: Path | None, key: str, answer: Profile | NoEstimate) -> None:
    path = _cache_path(cache_dir, key)
    if path is None:
        return
    kind = "profile" if isinstance(answer, Profile) else "refusal"
    figures = dataclasses.asdict(answer)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        json.dump({"sha256": _digest(figures), kind: figures}, file)
    Path(file.name).replace(path)


def _digest(figures: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(figures, sort_keys=True).encode()).hexdigest()


def _cache_path(cache_dir: Path | None, key: str) -> Path | None:
    return None if cache_dir is None else Path(cache_dir) / "npu_estimates" / f"{key}.json"
