"""Compilers for other systems: what is missing is said, and what they make is for that system."""

import stat

import pytest

from hetero_tvm import cross_compiler
from hetero_tvm.config import default_cache_dir
from hetero_tvm.device_os import device_os
from hetero_tvm.errors import EnvironmentProblem

ANDROID = device_os("android-arm64")


def test_android_without_the_ndk_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.delenv("ANDROID_NDK_HOME", raising=False)
    with pytest.raises(EnvironmentProblem, match=r"not set: download .*export ANDROID_NDK_HOME="):
        cross_compiler.cross_compiler(ANDROID, tmp_path)
    monkeypatch.setenv("ANDROID_NDK_HOME", str(tmp_path))
    with pytest.raises(EnvironmentProblem, match=r"no toolchains/.*-clang in it: download"):
        cross_compiler.cross_compiler(ANDROID, tmp_path)


def test_android_links_for_pages_of_16_kb(tmp_path, monkeypatch):
    """The folders and names of an NDK; a stand-in for its compiler shows what it is asked for."""
    bin_folder = tmp_path / "toolchains/llvm/prebuilt/linux-x86_64/bin"
    bin_folder.mkdir(parents=True)
    clang = bin_folder / "aarch64-linux-android29-clang"
    clang.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/said\n')
    clang.chmod(clang.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("ANDROID_NDK_HOME", str(tmp_path))
    compiler = cross_compiler.cross_compiler(ANDROID, tmp_path)
    compiler.run([*compiler.c, "x.o", *compiler.link], what="linking")
    assert (tmp_path / "said").read_text() == "x.o -Wl,-z,max-page-size=16384\n"
    assert compiler.cxx == (f"{clang}++",)


def test_without_zig_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(cross_compiler.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentProblem, match=r"pip install 'hetero-tvm\[cross\]'"):
        cross_compiler.cross_compiler(device_os("linux-aarch64"), tmp_path)


def test_a_failed_compilation_says_what_the_compiler_said(tmp_path):
    pytest.importorskip("ziglang")
    compiler = cross_compiler.cross_compiler(device_os("linux-aarch64"), default_cache_dir())
    source = tmp_path / "x.c"
    source.write_text("int f(void) { return nothing; }\n")
    with pytest.raises(EnvironmentProblem, match=r"compiling x failed: .*undeclared.*nothing"):
        compiler.run(
            [*compiler.c, "-c", str(source), "-o", str(tmp_path / "x.o")], what="compiling x"
        )
