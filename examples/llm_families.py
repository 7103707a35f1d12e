"""Small models of the families that people have, random weights, by the families' own exporters.

    python examples/llm_families.py                        list the families
    python examples/llm_families.py optimum FOLDER         FOLDER/<family>/: optimum's ONNX export
    python examples/llm_families.py genai FOLDER           the same models by onnxruntime-genai

| family    | what it has                                                                 |
|-----------|-----------------------------------------------------------------------------|
| `llama`   | grouped queries, rotary frequencies scaled as Llama 3's, tied embeddings     |
| `qwen2`   | biases on query, key and value, tied embeddings                             |
| `gemma2`  | soft caps, a window in every other layer, positions from the cache's length |
| `phi3`    | as many key heads as query heads, one packed product, longrope              |
| `mistral` | a window in every layer                                                     |

The files in `tests/hetero_tvm/frontend/families` come from here. Which of longrope's two tables a
model turns by, an exporter decides when it writes the file. Exporters get environments of their
own in `.cache/llm` of the checkout, made at first use (some 2 GB).
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]
from examples import llm_forms  # noqa: E402

FAMILIES = ("llama", "qwen2", "gemma2", "phi3", "mistral")
_OPTIMUM = ("torch==2.13.0", "transformers==4.57.6", "optimum-onnx==0.1.0", "onnxruntime==1.31.1")

_EXPORT = """
import sys, pathlib, torch, transformers
from optimum.exporters.onnx import onnx_export_from_model
out = pathlib.Path(sys.argv[1])
base = dict(
    vocab_size=96, hidden_size=32, intermediate_size=32, num_hidden_layers=1, head_dim=16,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
    initializer_range=0.2, bos_token_id=1, eos_token_id=2, pad_token_id=0,
)
families = {
    "llama": ("Llama", dict(
        tie_word_embeddings=True, rope_theta=5e5,
        rope_scaling=dict(
            rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
            original_max_position_embeddings=16,
        ),
    )),
    "qwen2": ("Qwen2", dict(tie_word_embeddings=True, rope_theta=1e6)),
    "gemma2": ("Gemma2", dict(
        num_hidden_layers=2, query_pre_attn_scalar=12, sliding_window=8,
        attn_logit_softcapping=0.5, final_logit_softcapping=2.0,
    )),
    "phi3": ("Phi3", dict(
        num_attention_heads=2, original_max_position_embeddings=16,
        rope_scaling=dict(
            type="longrope", short_factor=[1 + 0.1 * n for n in range(8)],
            long_factor=[1.5 + 0.7 * n for n in range(8)],
        ),
    )),
    "mistral": ("Mistral", dict(sliding_window=8)),
}
for name, (prefix, more) in families.items():
    torch.manual_seed(0)
    config = getattr(transformers, f"{prefix}Config")(**{**base, **more})
    kind = getattr(transformers, f"{prefix}ForCausalLM")
    # Only the eager form of attention has Gemma 2's soft cap.
    form = "eager" if name == "gemma2" else "sdpa"
    model = kind._from_config(config, attn_implementation=form).eval()
    with torch.no_grad():  # what starts as ones and zeros would hide mistakes
        for label, weight in model.named_parameters():
            if "norm" in label:
                weight.add_(torch.randn_like(weight) * 0.2)
            elif label.endswith("bias"):
                weight.normal_(0, 0.3)
    model.save_pretrained(out / name / "hf")
    onnx_export_from_model(model, out / name, task="text-generation-with-past", opset=17)
"""


def optimum(out: Path) -> None:
    """Export every family into a folder of its own: `model.onnx`, `config.json`, and `hf/`."""
    folder = llm_forms.CACHE / "optimum"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        venv.create(folder, with_pip=True, clear=True)
        command = [str(python), "-m", "pip", "install", "--quiet", *_OPTIMUM]
        subprocess.run(command, check=True)
        (folder / "complete").touch()
    subprocess.run([str(python), "-c", _EXPORT, str(out)], check=True, stdout=sys.stderr)


def genai(out: Path) -> None:
    """The same models in float32 by onnxruntime-genai's builder."""
    optimum(out / "optimum")
    words = llm_forms.make("hf")  # the builder asks for a tokenizer; which one does not matter
    for family in FAMILIES:
        source = out / "optimum" / family / "hf"
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (source / name).write_bytes((words / name).read_bytes())
        builder = [str(llm_forms.python()), "-m", "onnxruntime_genai.models.builder"]
        where = ["-m", str(source), "-o", str(out / family), "-c", str(out / "cache")]
        command = [*builder, *where, "-p", "fp32", "-e", "cpu"]
        subprocess.run(command, check=True, stdout=sys.stderr)


EXPORTERS = {"optimum": optimum, "genai": genai}


def main() -> int:
    """List the families, or export them."""
    if len(sys.argv) != 3 or sys.argv[1] not in EXPORTERS:
        print("\n".join(FAMILIES))
        return 0 if len(sys.argv) == 1 else 2
    EXPORTERS[sys.argv[1]](Path(sys.argv[2]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
