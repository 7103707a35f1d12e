"""Proxies, the scale, and the cache; the compiler itself only where it is installed."""

import dataclasses
import importlib.metadata
import importlib.util
import json

import pytest
from test_npu_profile import PROFILE, matmul, needs_qnn

from schedules import npu_estimate
from schedules.npu_estimate import (
    EstimateUnavailable,
    NpuEstimate,
    estimate_models,
    proxy_for,
    scale_to,
)
from schedules.npu_profile import NoEstimate
from target_specs.loader import list_specs, load_spec

GEN3 = load_spec("snapdragon-8-gen-3").npu
HOST = load_spec("host").npu
PHONES = [name for name in list_specs() if load_spec(name).npu.provider == "qnn"]


@pytest.fixture
def compiler(monkeypatch):
    """Stands for the vendor's compiler; the list is of what it was asked, by call."""
    asked = []

    def profile_models(waiting, options, timeout_s, progress, **_weights):
        asked.append(list(waiting.values()))
        answers = {
            b"bad": NoEstimate("refused", refused=True),
            b"crash": NoEstimate("crashed"),
        }
        return {key: answers.get(onnx, PROFILE) for key, onnx in waiting.items()}

    monkeypatch.setattr(npu_estimate, "profile_models", profile_models)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(importlib.metadata, "version", lambda package: "1")
    return asked


@pytest.mark.parametrize("name", PHONES)
def test_every_phone_has_a_proxy_and_a_reason(name):
    npu = load_spec(name).npu
    proxy, why = proxy_for(npu)
    assert why
    assert proxy.soc_model != npu.soc_model
    assert proxy.htp_arch <= npu.htp_arch


def test_refusals_say_what_and_why(monkeypatch):
    with pytest.raises(EstimateUnavailable, match="Qualcomm's compiler estimates only its own"):
        proxy_for(HOST)
    with pytest.raises(
        EstimateUnavailable, match="no SoC with a cost table is near v68; there is one for v73"
    ):
        proxy_for(dataclasses.replace(GEN3, htp_arch=68))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EstimateUnavailable, match=r"pip install 'hetero-tvm\[qnn\]'"):
        estimate_models({"r": b"x"}, GEN3, cache_dir=None)


def test_scale_makes_the_anchors_run_at_the_specs_rate():
    proxy = dataclasses.replace(proxy_for(GEN3)[0], anchor_us=(1000.0, 2000.0))
    # 2 * 128 * 4096² in 1000 µs, 2 * 256 * 4096² in 2000 µs: 4294.967296 GFLOP/s each
    scale = scale_to(dataclasses.replace(GEN3, matmul_gflops=8589.934592), proxy)
    assert scale.factor == pytest.approx(0.5)
    assert "QCS9100 is estimated at 4295 GFLOP/s" in scale.rule
    assert GEN3.origin("matmul_gflops").source in scale.rule
    assert "published" in scale.rule


def test_time_and_interval_are_scaled_and_bytes_are_not(compiler):
    found = estimate_models({"r": b"x"}, GEN3, cache_dir=None)["r"]
    factor = found.scale.factor
    assert found.us == pytest.approx(593 * factor)
    assert found.interval_us == pytest.approx((535 * factor, 716 * factor))
    assert found.profile == PROFILE


def test_cold_warm_and_equal_models(compiler, tmp_path):
    models = {"a": b"same", "b": b"same", "c": b"other"}
    cold = estimate_models(models, GEN3, cache_dir=tmp_path)
    assert compiler == [[b"same", b"other"]]  # equal models are compiled once
    assert not any(found.cached for found in cold.values())
    warm = estimate_models(models, GEN3, cache_dir=tmp_path)
    assert compiler[1:] == [[]]
    assert all(found.cached for found in warm.values())
    assert {name: found.profile for name, found in warm.items()} == dict.fromkeys("abc", PROFILE)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda text: text[:-5], id="cut_short"),
        pytest.param(lambda text: text.replace("593", "594"), id="another_figure"),
        pytest.param(lambda text: "[]", id="another_document"),
        pytest.param(lambda text: "{}", id="empty"),
        pytest.param(lambda text: "\0\xff", id="no_text"),
    ],
)
def test_a_damaged_entry_is_ignored_and_replaced(compiler, tmp_path, caplog, damage):
    estimate_models({"a": b"x"}, GEN3, cache_dir=tmp_path)
    (entry,) = (tmp_path / "npu_estimates").iterdir()
    entry.write_text(damage(entry.read_text()), encoding="latin-1")
    again = estimate_models({"a": b"x"}, GEN3, cache_dir=tmp_path)["a"]
    assert (again.cached, again.profile) == (False, PROFILE)
    assert "is damaged" in caplog.text
    assert estimate_models({"a": b"x"}, GEN3, cache_dir=tmp_path)["a"].cached


def test_refusals_are_kept_and_crashes_are_not(compiler, tmp_path):
    """Else whoever plans with a warm cache waits for what is refused, again and again."""
    for _ in range(2):
        models = {"a": b"bad", "b": b"x", "c": b"crash"}
        found = estimate_models(models, GEN3, cache_dir=tmp_path)
        assert found["a"] == NoEstimate("refused")
        assert found["c"] == NoEstimate("crashed")
        assert isinstance(found["b"], NpuEstimate)
    assert compiler == [[b"bad", b"x", b"crash"], [b"crash"]]


def test_a_damaged_refusal_is_asked_for_again(compiler, tmp_path, caplog):
    estimate_models({"a": b"bad"}, GEN3, cache_dir=tmp_path)
    (entry,) = (tmp_path / "npu_estimates").iterdir()
    entry.write_text(entry.read_text().replace('"refused"', '"took up"', 1))
    assert estimate_models({"a": b"bad"}, GEN3, cache_dir=tmp_path)["a"] == NoEstimate("refused")
    assert "is damaged" in caplog.text
    assert len(compiler) == 2


def test_phones_of_one_proxy_share_entries_and_others_do_not(compiler, tmp_path):
    for name in ("snapdragon-8-gen-3", "snapdragon-8-elite", "snapdragon-8-elite-gen-5"):
        estimate_models({"a": b"x"}, load_spec(name).npu, cache_dir=tmp_path)
    assert [len(call) for call in compiler] == [1, 0, 1]


def test_another_version_of_the_compiler_estimates_again(compiler, tmp_path, monkeypatch):
    estimate_models({"a": b"x"}, GEN3, cache_dir=tmp_path)
    monkeypatch.setattr(importlib.metadata, "version", lambda package: "2")
    assert not estimate_models({"a": b"x"}, GEN3, cache_dir=tmp_path)["a"].cached


def test_entries_are_plain_json(compiler, tmp_path):
    estimate_models({"a": b"x"}, GEN3, cache_dir=tmp_path)
    (entry,) = (tmp_path / "npu_estimates").iterdir()
    assert json.loads(entry.read_text())["profile"] == dataclasses.asdict(PROFILE)


@needs_qnn
@pytest.mark.parametrize("name", ["snapdragon-8-gen-3", "snapdragon-8-elite-gen-5"])
def test_anchors_are_what_the_compiler_says(name):
    """The constants behind the scale, asked for again."""
    npu = load_spec(name).npu
    models = {str(rows): matmul(rows, 4096, 4096) for rows in (128, 256)}
    found = estimate_models(models, npu, cache_dir=None)
    assert tuple(e.profile.us for e in found.values()) == proxy_for(npu)[0].anchor_us
    rates = [2 * rows * 4096**2 / found[str(rows)].us / 1e3 for rows in (128, 256)]
    assert (rates[0] * rates[1]) ** 0.5 == pytest.approx(npu.matmul_gflops)
