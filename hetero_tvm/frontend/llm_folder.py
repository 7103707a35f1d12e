"""A folder with a language model, as exporters leave it: what is in it, and what it says.

    model_dir/
      model.onnx             + external data; also onnx/model.onnx, or the name in genai_config.json
      config.json            Hugging Face's architecture file, and/or
      genai_config.json      onnxruntime-genai's
      tokenizer.json, tokenizer_config.json, chat_template.jinja, generation_config.json, ..

Shapes come from the ONNX file itself: the cache inputs say layers, heads and depth. The files
beside it say what the graph cannot: the longest context, and which tokens end a text.

Nothing is followed out of the folder; sizes are limited, since nobody vouches for the files.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import onnx

from hetero_tvm.errors import NotALanguageModel
from hetero_tvm.frontend.read_model import parse_model

# What goes into the artefact as it is, for whoever turns text into tokens and back.
TEXT_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
)
_TOKENIZER = "tokenizer.json"
_MAX_TEXT_BYTES = 48 << 20
_USUAL_NAMES = ("model.onnx", "onnx/model.onnx", "decoder_model_merged.onnx")
_CACHE_NAME = re.compile(r"(.*?)(\d+)\.(?:decoder\.)?(key|value)")
_DEFAULT_CONTEXT = 2048
_MAX_WINDOW = 1 << 20  # tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class CacheInput:
    """One cache input of the model."""

    name: str
    layer: int
    kind: str  # "key" or "value"
    heads: int
    depth: int
    dtype: str
    window_rows: int = 0  # rows that ONNX Runtime's buffer has from the start; 0: it grows


@dataclasses.dataclass(frozen=True, kw_only=True)
class LlmFolder:
    """What a folder says about its model."""

    model: Path
    caches: tuple[CacheInput, ...]  # by layer, the key before the value
    context: int  # longest sequence, in tokens
    vocabulary: int
    stop_tokens: tuple[int, ...]  # any of them ends a text
    texts: Mapping[str, str]  # of `TEXT_FILES`, those that are there

    @property
    def has_tokenizer(self) -> bool:
        """Can text be turned into tokens? Without, everything works on token ids."""
        return _TOKENIZER in self.texts


def is_llm_folder(path: Path) -> bool:
    """Is `path` a folder? A file is a model of any kind; a folder can only be a language model."""
    return path.is_dir()


def read_llm_folder(path: Path) -> LlmFolder:
    """Read what lies beside the ONNX file, and the file's border; not its weights.

    Raises:
        BadInput: no ONNX file, several without a hint, no cache inputs, a file that is no JSON.
    """
    genai = _json(path / "genai_config.json")
    config = _json(path / "config.json")
    model = _model_file(path, genai)
    proto = parse_model(model)
    caches = _caches(model, proto, _head_depth(config, genai))
    return LlmFolder(
        model=model,
        caches=caches,
        context=_context(config, genai),
        vocabulary=_vocabulary(model, proto),
        stop_tokens=_stop_tokens(config, genai, _json(path / "generation_config.json")),
        texts={name: text for name in TEXT_FILES if (text := read_text(path / name)) is not None},
    )


def read_text(file: Path) -> str | None:
    """A text file of the folder; None where there is none."""
    if not file.is_file():
        return None
    if file.stat().st_size > _MAX_TEXT_BYTES:
        raise NotALanguageModel(f"{file}: {file.stat().st_size} bytes, at most {_MAX_TEXT_BYTES}")
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise NotALanguageModel(f"{file}: cannot be read as text ({error})") from error


def _json(file: Path) -> dict[str, Any]:
    text = read_text(file)
    if text is None:
        return {}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NotALanguageModel(f"{file}: not JSON ({error})") from error
    if not isinstance(found, dict):
        raise NotALanguageModel(f"{file}: expected an object")
    return found


def _model_file(path: Path, genai: Mapping[str, Any]) -> Path:
    """The ONNX file that the folder is about."""
    named = _at(genai, "model", "decoder", "filename")
    if isinstance(named, str):
        parts = PurePosixPath(named).parts
        if ".." in parts or PurePosixPath(named).is_absolute():
            raise NotALanguageModel(f"{path}/genai_config.json: {named!r} leaves the folder")
        return _existing(path / named, path)
    for name in _USUAL_NAMES:
        if (path / name).is_file():
            return path / name
    found = sorted(path.glob("*.onnx"))
    if len(found) == 1:
        return found[0]
    if not found:
        raise NotALanguageModel(f"{path}: no ONNX file in this folder; expected {_USUAL_NAMES[0]}")
    raise NotALanguageModel(
        f"{path}: several ONNX files ({', '.join(file.name for file in found[:4])}); "
        f"rename the one to build to {_USUAL_NAMES[0]}"
    )


def _existing(file: Path, folder: Path) -> Path:
    if not file.is_file():
        raise NotALanguageModel(
            f"{folder}: genai_config.json names {file.name}, which is not there"
        )
    return file


def _head_depth(config: Mapping[str, Any], genai: Mapping[str, Any]) -> int:
    """Elements of one head as the configuration has them, for graphs that leave them open."""
    hidden, heads = config.get("hidden_size"), config.get("num_attention_heads")
    for found in (
        _at(genai, "model", "decoder", "head_size"),
        config.get("head_dim"),
        hidden // heads if isinstance(hidden, int) and isinstance(heads, int) and heads else None,
    ):
        if isinstance(found, int) and found > 0:
            return found
    return 0


def _caches(model: Path, proto: onnx.ModelProto, head_depth: int) -> tuple[CacheInput, ...]:
    """The cache inputs of the graph, in order."""
    weights = {tensor.name for tensor in proto.graph.initializer}
    windows = _windows(model, proto)
    found = []
    for value in proto.graph.input:
        match = _CACHE_NAME.fullmatch(value.name)
        dims = value.type.tensor_type.shape.dim
        if match is None or value.name in weights or len(dims) != 4:
            continue
        heads, depth = dims[1].dim_value, dims[3].dim_value or head_depth
        if heads < 1 or depth < 1:
            raise NotALanguageModel(
                f"{model}: {value.name} leaves its heads or their size open, and no config.json or "
                "genai_config.json beside it says them"
            )
        found.append(
            CacheInput(
                name=value.name,
                layer=int(match[2]),
                kind=match[3],
                heads=heads,
                depth=depth,
                dtype=onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name,
                window_rows=windows.get(value.name, 0),
            )
        )
    found.sort(key=lambda cache: (cache.layer, cache.kind))
    kinds = {(cache.layer, cache.kind) for cache in found}
    layers = {cache.layer for cache in found}
    if not found or len(kinds) != len(found) or len(kinds) != 2 * len(layers):
        raise NotALanguageModel(
            f"{model}: not a language model with a cache: expected inputs such as "
            "past_key_values.0.key and past_key_values.0.value; export it with its past "
            "(optimum: --task text-generation-with-past)"
        )
    return tuple(found)


def _windows(model: Path, proto: onnx.ModelProto) -> dict[str, int]:
    """Rows of each cache that holds a window alone, as `sliding_window_cache` says."""
    found: dict[str, int] = {}
    for node in proto.graph.node:
        numbers = {attribute.name: attribute.i for attribute in node.attribute}
        if node.op_type != "GroupQueryAttention" or numbers.get("sliding_window_cache", 0) != 1:
            continue
        window = numbers.get("local_window_size", -1)
        if not 0 < window <= _MAX_WINDOW:
            raise NotALanguageModel(
                f"{model}: node {node.name!r} (GroupQueryAttention): sliding_window_cache needs a "
                f"local_window_size of 1 to {_MAX_WINDOW}, not {window}"
            )
        found.update(dict.fromkeys(node.input[3:5], window))
    return found


def _context(config: Mapping[str, Any], genai: Mapping[str, Any]) -> int:
    for found in (_at(genai, "model", "context_length"), config.get("max_position_embeddings")):
        if isinstance(found, int) and found > 0:
            return found
    return _DEFAULT_CONTEXT


def _vocabulary(model: Path, proto: onnx.ModelProto) -> int:
    for value in proto.graph.output:
        if value.name == "logits":
            dims = value.type.tensor_type.shape.dim
            if dims and dims[-1].dim_value > 0:
                return int(dims[-1].dim_value)
            return 0  # found out when shapes are known
    raise NotALanguageModel(f"{model}: no output named logits; its outputs are {_names(proto)}")


def _names(proto: onnx.ModelProto) -> str:
    return ", ".join(value.name for value in list(proto.graph.output)[:4])


def _stop_tokens(*sources: Mapping[str, Any]) -> tuple[int, ...]:
    """Every `eos_token_id` of the configurations, each once."""
    found: list[int] = []
    for source in sources:
        for place in (source.get("eos_token_id"), _at(source, "model", "eos_token_id")):
            values = place if isinstance(place, list) else [place]
            found += [value for value in values if isinstance(value, int)]
    return tuple(dict.fromkeys(found))


def _at(tree: Mapping[str, Any], *keys: str) -> Any:
    for key in keys:
        if not isinstance(tree, dict):
            return None
        tree = tree.get(key)  # type: ignore[assignment]
    return tree
