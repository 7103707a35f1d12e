"""A product in a process of its own: its numbers, and every way of not having any."""

import signal

import numpy as np
import pytest

from hetero_tvm import device_check
from hetero_tvm.device_check import Wanted, check


def test_both_devices_at_once():
    found = check(Wanted(place="split"))
    assert found.error == "" and found.held
    assert 0 < found.relative_error < 1e-5
    assert found.device and found.memory and found.seconds > 0


def test_wrong_numbers_do_not_hold(monkeypatch):
    true = device_check._product
    monkeypatch.setattr(device_check, "_product", lambda *args: true(*args) * np.float64(1.01))
    found = device_check.run(Wanted(place="gpu"))
    assert not found.held and found.relative_error == pytest.approx(0.01, rel=0.01)
    monkeypatch.setattr(device_check, "_product", lambda *args: true(*args) * np.nan)
    assert not device_check.run(Wanted(place="gpu")).held


def test_half_precision():
    found = device_check.run(Wanted(place="gpu", dtype="float16"))
    assert found.held and found.relative_error > 1e-6


def test_what_a_child_raises_is_its_result():
    found = check(Wanted(place="gpu", device=99))
    assert not found.held and "no OpenCL device '99'" in found.error


def test_a_child_that_hangs():
    found = check(Wanted(place="gpu"), timeout_s=0.01)
    assert found.error == "no result after 0.01 s"


@pytest.mark.parametrize(
    ("code", "said", "words"),
    [
        (-signal.SIGSEGV, "", "ended by SIGSEGV: a driver crashed"),
        (1, "Traceback\nImportError: no module\n", "ended with 1: ImportError: no module"),
        (9, "", "ended with 9: it said nothing"),
    ],
)
def test_how_a_child_ends(code, said, words):
    assert words in device_check._how_it_ended(code, said)


@pytest.mark.nightly
@pytest.mark.parametrize("place", ["npu", "split"])
def test_the_simulated_npu(place):
    pytest.importorskip("onnxruntime_qnn")
    found = check(Wanted(place=place, target="snapdragon-8-gen-3"))
    assert found.held and found.relative_error > 1e-6  # float16 inside
