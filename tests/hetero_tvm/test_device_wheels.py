"""Files out of another platform's wheels."""

import subprocess
import zipfile
from pathlib import Path

import pytest

from hetero_tvm import device_wheels
from hetero_tvm.device_os import device_os
from hetero_tvm.errors import EnvironmentProblem

ARM = device_os("linux-aarch64")


@pytest.fixture
def pip(monkeypatch):
    """A pip that makes the wheel it is asked for; returns the command lines."""
    asked = []

    def run(words, **_):
        asked.append(words)
        folder = Path(words[words.index("--dest") + 1])
        with zipfile.ZipFile(folder / "some-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr("some/lib/libsome.so", b"code")
            wheel.writestr("some/lib/libother.so", b"more")
        return subprocess.CompletedProcess(words, 0, "", "")

    monkeypatch.setattr(device_wheels.subprocess, "run", run)
    return asked


def test_a_wheel_is_fetched_once_for_the_platform(pip, tmp_path):
    for pattern in ("some/lib/libsome*", "*other.so"):
        (path,) = device_wheels.wheel_files(ARM, "some", "1.0", [pattern], cache_dir=tmp_path)
        assert path.read_bytes() in (b"code", b"more")
    (words,) = pip
    assert words[-1] == "some==1.0"
    assert "manylinux_2_28_aarch64" in words and "--no-deps" in words
    assert not any("x86" in word for word in words)


def test_missing_members_are_named(pip, tmp_path):
    with pytest.raises(
        EnvironmentProblem, match=r"some 1\.0 for linux-aarch64 has no file \*\.dll"
    ):
        device_wheels.wheel_files(ARM, "some", "1.0", ["*.dll"], cache_dir=tmp_path)


def test_what_pip_complained_of_is_said(monkeypatch, tmp_path):
    said = "WARNING: slow\nERROR: No matching distribution found for some==1.0\n"
    monkeypatch.setattr(
        device_wheels.subprocess,
        "run",
        lambda words, **_: subprocess.CompletedProcess(words, 1, "", said),
    )
    with pytest.raises(EnvironmentProblem, match=r"pip found no some 1\.0 for .*No matching"):
        device_wheels.wheel_files(ARM, "some", "1.0", ["*"], cache_dir=tmp_path)
    assert list((tmp_path / "wheels/linux-aarch64").iterdir()) == []


def test_android_has_no_wheels(tmp_path):
    with pytest.raises(EnvironmentProblem, match="PyPI has no wheels for android-arm64"):
        device_wheels.wheel_files(
            device_os("android-arm64"), "some", "1", ["*"], cache_dir=tmp_path
        )
