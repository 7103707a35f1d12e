"""A device for tests of deployments: this machine, with its own OpenCL, as a folder or over ssh."""

import dataclasses
from pathlib import Path

import tiny_models as tiny

import hetero_tvm
from hetero_tvm import deployment, runtime
from hetero_tvm.progress import Progress
from hetero_tvm.transports.local import Local


@dataclasses.dataclass(frozen=True)
class DeployedHere:
    """`artefact` (of `model`) is deployed on the device `address`, whose folder is `root`."""

    model: Path
    artefact: Path
    address: str
    root: Path


def deployed_here(folder):
    """A small model on a device that is a folder of this machine."""
    artefact = build_mlp(folder)
    root = folder / "device"
    deploy(artefact, Local(root), folder, environment={})  # as a user does, without any flag
    return DeployedHere(folder / "mlp.onnx", artefact, f"local:{root}", root)


def build_mlp(folder, **words):
    """`mlp.onnx` and `mlp.so` in `folder`; the artefact."""
    model = tiny.mlp(folder / "mlp.onnx", **words)
    hetero_tvm.build(model, target="host", output=folder / "mlp.so")
    return folder / "mlp.so"


def opencl_environment():
    """What a shell on this machine lacks to find the driver that Python's packages bring."""
    driver = runtime.library_paths()["opencl.fallback_library"]
    return deployment.environment_of(str(driver) if driver else None, None)


def deploy(
    artefact, transport, folder, *, name="mlp", environment=None, root=None, sign=None, **wishes
):
    """Deploy quietly; part tests are kept in `folder`."""
    wish = deployment.Wish(
        artefact=artefact,
        name=name,
        cache_dir=folder / "cache",
        sign=sign,
        **wishes,
        environment=opencl_environment() if environment is None else environment,
    )
    return deployment.deploy(wish, transport, root, Progress(quiet=True))
