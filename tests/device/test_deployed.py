"""A deployment over ssh on a machine with another processor: every part of it, nothing twice."""

import os
import re

import pytest
import tiny_models as tiny

from hetero_tvm import compiler
from hetero_tvm.config import BuildConfig

# Set-up of the device apart: half a minute, most of it the emulated processor's encryption.
pytestmark = pytest.mark.nightly


def test_a_model_built_here_is_pushed_tried_and_right_there(hetero, emulated_device, tmp_path):
    pytest.importorskip("ziglang")
    artefact = tmp_path / "mlp.so"
    model = tiny.mlp(tmp_path / "mlp.onnx")
    compiler.build(BuildConfig(model=model, target="host", output=artefact, os="linux-aarch64"))
    # As a user's ~/.ssh/config would say how to log in.
    login = tmp_path / "ssh_config"
    login.write_text(
        f"Host emulated\n HostName {emulated_device.host}\n Port {emulated_device.port}\n"
        f" User {emulated_device.user}\n IdentityFile {emulated_device.key}\n"
        f" UserKnownHostsFile {emulated_device.known_hosts}\n"
    )
    ssh = tmp_path / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F {login} "$@"\n')
    ssh.chmod(0o755)
    env = {"PATH": f"{ssh.parent}:{os.environ['PATH']}"}
    first = hetero("deploy", artefact, "--to", "ssh://emulated", env=env)
    assert first.returncode == 0, first.stderr
    for part in ("cpu", "gpu", "npu", "model"):
        assert re.search(rf"^{part} +held", first.stdout, re.MULTILINE), first.stdout
    second = hetero("deploy", artefact, "--to", "ssh://emulated", env=env)
    assert second.returncode == 0 and "pushed 0.0 kB of" in second.stdout, second.stdout
    libraries = float(re.search(r"libraries take ([\d.]+) MB there", second.stdout)[1])
    assert libraries <= 40
