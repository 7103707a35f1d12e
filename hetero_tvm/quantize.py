"""Verb: store a language model's weights in four bits, and say what that costs in accuracy."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hetero_tvm import cli
from hetero_tvm.block_quantization import Settings
from hetero_tvm.errors import BadInput, BadOutputPath, CannotWrite, TokenizerUnusable
from hetero_tvm.layer_settings import Override, read_overrides, settings_of
from hetero_tvm.perplexity import Perplexity, perplexity
from hetero_tvm.progress import Progress

if TYPE_CHECKING:
    from hetero_tvm.quantize_onnx import LayerReport

EXAMPLES = """\
examples:
  hetero-tvm quantize model_dir/ -o model_w4/
  hetero-tvm quantize model_dir/ -o model_w4/ --group 128 --symmetric --overrides layers.toml
  hetero-tvm quantize model_dir/ -o model_w4/ --text sample.txt --json

The scheme w4a16: weights of four bits with a scale for each group along the depth, activations as
they are. Products that already have 4-bit weights are copied bit for bit. The head is kept unless
the overrides name it:

  [[layer]]
  match = "*/lm_head/*"   # a layer's name as the report shows it
  bits = 8                # 4 or 8; also group, symmetric, keep = true

exit codes: 0 written, 2 bad input, 3 something is missing
"""

SCHEMES = ("w4a16",)
_USUAL_NAMES = ("model.onnx", "onnx/model.onnx")
_BESIDE = (
    "config.json",
    "genai_config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
_SHOWN = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """What was written, and what it costs."""

    model: Path  # the ONNX file
    layers: tuple[LayerReport, ...]
    copied: int  # products that had few bits already
    before: Perplexity | None = None
    after: Perplexity | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `hetero-tvm quantize`."""
    parser.add_argument("model", type=Path, help="folder of an ONNX language model, or ONNX file")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--scheme", choices=SCHEMES, default="w4a16", help="(default w4a16)")
    add_scheme_arguments(parser)
    parser.add_argument(
        "--text", type=Path, metavar="FILE", help="perplexity before and after on this text"
    )
    parser.add_argument(
        "--text-tokens",
        type=int,
        default=4096,
        metavar="N",
        help="of the text, from its beginning (default 4096)",
    )


def add_scheme_arguments(parser: Any) -> None:
    """What `quantize` and `build --quantize` have in common."""
    parser.add_argument(
        "--group", type=int, default=32, help="neighbours that share a scale (default 32)"
    )
    parser.add_argument(
        "--symmetric", action="store_true", help="without zero points: smaller, less exact"
    )
    parser.add_argument(
        "--overrides",
        type=Path,
        metavar="FILE.toml",
        help="layers that differ; see `hetero-tvm quantize --help`",
    )


def read_settings(group: int, symmetric: bool) -> Settings:
    """The settings of all layers.

    Raises:
        BadInput: a group that the operator does not have.
    """
    try:
        return Settings(group=group, symmetric=symmetric)
    except ValueError as error:
        raise BadInput(f"--group: {error}") from None


@contextlib.contextmanager
def quantized_copy(
    source: Path,
    near: Path,
    scheme: str,
    settings: Settings,
    overrides: Path | None,
    progress: Progress,
) -> Iterator[Path]:
    """A quantised copy of the folder `source` in the folder `near`, for as long as this is open.

    Raises:
        BadInput: as `quantize_model`; an unknown scheme.
    """
    if scheme not in SCHEMES:
        raise BadInput(f"quantize {scheme}: there is {', '.join(SCHEMES)}")
    differing = () if overrides is None else read_overrides(overrides)
    with tempfile.TemporaryDirectory(prefix=".quantized.", dir=near) as temporary:
        folder = Path(temporary) / source.resolve().name
        quantize_model(source, folder, settings, differing, progress=progress)
        yield folder


def run(args: argparse.Namespace) -> int:
    """Quantise, measure, print."""
    settings = read_settings(args.group, args.symmetric)
    if args.text_tokens < 2:
        raise BadInput(f"--text-tokens {args.text_tokens}: at least 2")
    overrides = () if args.overrides is None else read_overrides(args.overrides)
    tokens = None
    if args.text is not None:
        tokens = read_tokens(args.text, folder_of(args.model), args.text_tokens)
    with Progress(quiet=args.quiet or args.json) as progress:
        result = quantize_model(
            args.model, args.output, settings, overrides, tokens=tokens, progress=progress
        )
    if args.json:
        cli.emit_json("quantize", summary(result))
    else:
        cli.emit(_text(result, verbose=args.verbose > 0))
    return 0


def quantize_model(
    source: Path,
    output: Path,
    settings: Settings,
    overrides: Sequence[Override] = (),
    *,
    tokens: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> Result:
    """Write the folder `output` with the model in `source`, quantised, and the files beside it.

    Args:
        source: folder or ONNX file.
        output: must not exist, or be an empty folder; appears when it is whole.
        settings: of all layers that `overrides` do not name.
        overrides: see `layer_settings`.
        tokens: of a text; the perplexity of both models on them.
        progress: shown to the user.

    Raises:
        BadInput: no model, nothing in it to quantise, an override that names no layer.
        EnvironmentProblem: the folder cannot be written.
    """
    from hetero_tvm.quantize_onnx import Model

    progress = progress or Progress(quiet=True)
    path, beside = find_model(source), folder_of(source)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise BadOutputPath(f"{output}: exists already; name a new folder")
    if not output.resolve().parent.is_dir():
        raise BadOutputPath(f"{output}: the folder {output.parent} does not exist")
    model = Model(path)
    names = [layer.name for layer in model.layers]
    heads = frozenset(layer.name for layer in model.layers if layer.is_head)
    chosen = settings_of(names, heads, settings, overrides)
    if not any(chosen.values()):
        had = f"; its {model.quantized} products have few bits already" if model.quantized else ""
        raise BadInput(f"{path}: no product with a constant float weight to quantise{had}")
    weights = {name: 1.0 for name, how in chosen.items() if how is not None}
    share = {"perplexity before": 0.3 * len(weights), "perplexity after": 0.3 * len(weights)}
    progress.begin({**weights, **(share if tokens else {})})
    try:
        with tempfile.TemporaryDirectory(
            prefix=f".{output.name}.", suffix=".part", dir=output.resolve().parent
        ) as temporary:
            written = Path(temporary) / "model" / path.name
            written.parent.mkdir()
            head_dim, before, after = read_head_dim(beside), None, None
            if tokens:
                progress.step("perplexity before")
                before = perplexity(path, tokens, head_dim=head_dim)
            reports = model.write(written, chosen, progress.step)
            for name in _BESIDE:
                if (beside / name).is_file():
                    shutil.copyfile(beside / name, written.parent / name)
            if tokens:
                progress.step("perplexity after")
                after = perplexity(written, tokens, head_dim=head_dim)
            if output.exists():
                output.rmdir()
            written.parent.rename(output)
    except OSError as error:
        raise CannotWrite(f"cannot write {output}: {error.strerror or error}") from error
    return Result(
        model=output / path.name,
        layers=reports,
        copied=model.quantized,
        before=before,
        after=after,
    )


def find_model(source: Path) -> Path:
    """The ONNX file of a folder, or the file itself.

    Raises:
        BadInput: there is none, or more than one to choose from.
    """
    if not source.is_dir():
        if not source.is_file():
            raise BadInput(f"{source}: no such file or folder")
        return source
    named = _named(source / "genai_config.json")
    for name in (*([named] if named else []), *_USUAL_NAMES):
        if (source / name).is_file():
            return source / name
    found = sorted(source.glob("*.onnx"))
    if len(found) != 1:
        raise BadInput(
            f"{source}: {len(found) or 'no'} ONNX files in this folder; give the file itself"
        )
    return found[0]


def folder_of(source: Path) -> Path:
    """Where the files beside the model lie."""
    return source if source.is_dir() else source.parent


def _named(config: Path) -> str | None:
    """The file that onnxruntime-genai's configuration names, if it lies in the folder."""
    name = _at(config, "model", "decoder", "filename")
    return name if isinstance(name, str) and Path(name).name == name else None


def read_head_dim(folder: Path) -> int | None:
    """Values of a cached head, as the configurations in `folder` say; None where none does."""
    config = folder / "config.json"
    for found in (
        _at(folder / "genai_config.json", "model", "decoder", "head_size"),
        _at(config, "head_dim"),
    ):
        if isinstance(found, int):
            return found
    hidden, heads = _at(config, "hidden_size"), _at(config, "num_attention_heads")
    return hidden // heads if isinstance(hidden, int) and isinstance(heads, int) and heads else None


def _at(file: Path, *keys: str) -> Any:
    """A value of a JSON file; None where the file or the value is not there."""
    try:
        found = json.loads(file.read_text("utf-8"))
        for key in keys:
            found = found[key]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found


def read_tokens(text: Path, folder: Path, most: int) -> list[int]:
    """The first tokens of a text file, by the tokenizer in `folder`.

    Raises:
        BadInput: no tokenizer there, or no readable text.
    """
    from hetero_tvm.tokenizer import Tokenizer

    if not (folder / "tokenizer.json").is_file():
        raise TokenizerUnusable(f"--text needs {folder}/tokenizer.json, which is not there")
    try:
        words = text.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"--text {text}: {error}") from None
    return Tokenizer.from_folder(folder).encode(words)[:most]


def summary(result: Result) -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "model": str(result.model),
        "layers": [dataclasses.asdict(layer) for layer in result.layers],
        "copied": result.copied,
        "perplexity_before": dataclasses.asdict(result.before) if result.before else None,
        "perplexity_after": dataclasses.asdict(result.after) if result.after else None,
    }


def _text(result: Result, *, verbose: bool) -> str:
    done = [layer for layer in result.layers if layer.settings is not None]
    kept = [layer for layer in result.layers if layer.settings is None]
    worst = sorted(done, key=lambda layer: -layer.relative_error)
    shown = done if verbose else worst[:_SHOWN]
    lines = [f"{'layer':<52}{'depth x columns':>18}{'bits/group':>12}{'rms error':>11}"]
    lines += [
        f"{layer.name[-51:]:<52}{f'{layer.depth}x{layer.columns}':>18}"
        f"{_words(layer.settings):>12}{layer.relative_error:>11.4f}"
        for layer in shown
    ]
    if len(shown) < len(done):
        lines.append(f"… the {len(shown)} worst of {len(done)}; -v shows all")
    lines += [f"{layer.name[-51:]:<52} kept as it is" for layer in kept]
    before, after = (
        sum(getattr(layer, field) for layer in result.layers)
        for field in ("bytes_before", "bytes_after")
    )
    lines.append(f"weights of products {before / 1e6:.1f} MB -> {after / 1e6:.1f} MB")
    if result.copied:
        lines.append(f"{result.copied} products had few bits already: copied bit for bit")
    if result.before and result.after:
        ratio = result.after.value / result.before.value
        lines.append(
            f"perplexity {result.before.value:.3f} -> {result.after.value:.3f} (x {ratio:.3f}), "
            f"{result.before.tokens} tokens in windows of {result.before.window}"
        )
    lines.append(f"wrote {result.model}")
    return "\n".join(lines)


def _words(settings: Settings | None) -> str:
    if settings is None:
        return "kept"
    return f"{settings.bits}/{settings.group}{'' if settings.symmetric else ' zp'}"


if __name__ == "__main__":
    sys.exit(cli.verb_main("quantize"))
