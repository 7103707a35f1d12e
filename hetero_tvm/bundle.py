"""The artefact: one shared library that carries its own description.

    [ shared library, as linked ][ weights, if large ][ manifest: JSON ][ footer ]

    footer: sha256 of the manifest | its length | magic
    [ signature, where it is signed: see `hetero_tvm.signing` ]

A loader reads the manifest from the end of the file, and checks every byte, *before* the operating
system is asked to load any code (loading a library runs its constructors). The dynamic loader
ignores what follows the library's last segment, so `model.so` is still an ordinary shared library.

Files come into being whole or not at all: written beside the target, flushed, then renamed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import hashlib
import json
import os
import platform
import struct
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Protocol

from hetero_tvm import typed_json
from hetero_tvm.errors import ArtefactUnreadable
from hetero_tvm.frontend.random_inputs import InputRange
from hetero_tvm.frontend.tensor_spec import TensorSpec, check_tensors
from hetero_tvm.lengths import LengthRules
from hetero_tvm.npu_targets import NpuTarget
from hetero_tvm.weights_layout import ALIGNMENT, Weights
from relay_passes.calls import Call

FORMAT_VERSION = 6  # kFormatVersion of runtime/src/c_api/manifest.cc too
_MAGIC = b"HETROTVM"
_FOOTER = struct.Struct("<32sQ8s")  # sha256 of the manifest, its length in bytes, magic
SIGNATURE = struct.Struct("<64s32s8s")  # signature, public key, magic
SIGNATURE_MAGIC = b"HETROSIG"
_MAX_MANIFEST_BYTES = 64 << 20
_CHUNK_BYTES = 1 << 20
_MOST_BYTES = 1 << 50  # of a file
_MOST_US = 1e15  # of a run: 30 years
_MOST_TOKENS = (1 << 31) - 1  # kMostTokens of manifest.cc: steps count them in an int32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
    """One function of an artefact, for inputs of one length."""

    length: int
    function: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    output_axes: tuple[tuple[int, ...] | None, ...]  # as in `Manifest`
    plan: dict[str, Any]
    npu_regions: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageModel:
    """What a session needs to know of a language model; its steps are the variants."""

    caches: tuple[TensorSpec, ...]  # inputs that the steps write, in the order of their inputs
    capacity: int  # longest sequence, in tokens
    vocabulary: int
    stop_tokens: tuple[int, ...]  # any of them ends a text
    texts: dict[str, str]  # files of the tokenizer, by name; empty: only token ids


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """What the artefact is, for whom, made from what; plain data, JSON there and back."""

    target: str
    soc: str
    htp_arch: int | None
    soc_ids: tuple[int, ...]  # kernel numbers of the SoCs that its NPU part runs on; () = any
    npu_provider: str
    os: str  # what its host code runs on: linux, windows, android
    host: str  # and on which processor: x86_64, aarch64
    dtype: str
    model_name: str
    model_sha256: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    # Of each output: the permutation that shows its memory in its shape; None: it lies so.
    output_axes: tuple[tuple[int, ...] | None, ...]
    ranges: tuple[InputRange, ...]  # what random inputs are drawn from
    versions: dict[str, str]
    plan: dict[str, Any]
    npu_regions: int
    calls: Mapping[str, tuple[Call, ...]]  # function -> what it calls, in order
    # Built with --length: its variants, shortest first; what stands above is the longest one's.
    variants: tuple[Variant, ...] = ()
    lengths: LengthRules | None = None
    llm: LanguageModel | None = None
    # What the NPU part is compiled for, the first being the above; empty: there is none.
    targets: tuple[NpuTarget, ...] = ()
    fallback: bool = False  # it carries what computes the model without NPU or GPU
    # What ONNX Runtime gives on seeded inputs (`hetero_tvm.reference`); None after --no-check.
    reference: dict[str, Any] | None = None
    weights: Weights | None = None  # None: they are in the library
    # Built with --db: what every GPU kernel uses, tuned or not, and why.
    kernels: tuple[dict[str, Any], ...] = ()
    gpu_share: float = 1.0  # of the GPU's time that its code takes; the rest it leaves to others
    memory_bytes: int = 0  # of devices, at least, once it has run; 0: not known
    record: str = ""  # what a report shows and nothing else reads: `hetero_tvm.build_record`
    library_bytes: int = 0
    library_sha256: str = ""
    format_version: int = FORMAT_VERSION

    def to_json(self) -> str:
        """The manifest as JSON text."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    def on(self, target: NpuTarget) -> Manifest:
        """The manifest as one of its targets is told of it."""
        return dataclasses.replace(
            self,
            target=target.name,
            soc=target.soc,
            htp_arch=target.htp_arch,
            soc_ids=target.soc_ids,
        )

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read back what `to_json` wrote; ValueError where it is something else."""
        raw = typed_json.parse_object(text)
        version = raw.get("format_version")
        if version != FORMAT_VERSION:
            raise ValueError(f"format version {version}, this program reads {FORMAT_VERSION}")
        manifest = typed_json.from_object(cls, raw)
        _check(manifest)
        return manifest


def _check(manifest: Manifest) -> None:
    """What types do not say; ValueError."""
    borders: tuple[Manifest | Variant, ...] = (manifest, *manifest.variants)
    for border in borders:
        check_tensors((*border.inputs, *border.outputs))
        if len(border.output_axes) != len(border.outputs):
            raise ValueError("an order of axes for each output, or none")
        for spec, axes in zip(border.outputs, border.output_axes, strict=True):
            if axes is not None and sorted(axes) != list(range(len(spec.shape))):
                raise ValueError(f"{list(axes)} is no order of {len(spec.shape)} axes")
    check_tensors(manifest.ranges)
    if any(entry.kind == "index" and entry.size < 1 for entry in manifest.ranges):
        raise ValueError("an input that indexes nothing")
    if any(entry.kind == "choice" and not entry.values for entry in manifest.ranges):
        raise ValueError("an input without a value to choose")
    lengths = [variant.length for variant in manifest.variants]
    if lengths != sorted(set(lengths)) or any(not 0 < length <= _MOST_TOKENS for length in lengths):
        raise ValueError(f"variants of the lengths {lengths}")
    for variant in manifest.variants:
        predicted = variant.plan.get("predicted_us")
        if not isinstance(predicted, int | float) or not 0 <= predicted < _MOST_US:
            raise ValueError(f"variant {variant.length} has no predicted time")
    if (manifest.lengths is None) == bool(lengths) and manifest.llm is None:
        raise ValueError("variants go with rules for lengths")
    if manifest.lengths is not None:
        manifest.lengths.check(manifest.inputs, manifest.outputs)
    weights = manifest.weights
    if weights is not None:
        weights.check()
    if not 0 <= manifest.library_bytes <= (weights.offset if weights else _MOST_BYTES):
        raise ValueError(f"{manifest.library_bytes} bytes of code")
    if not 0 < manifest.gpu_share <= 1:
        raise ValueError(f"a share of {manifest.gpu_share:g} of the GPU")
    llm = manifest.llm
    if llm is not None:
        check_tensors(llm.caches)
        if llm.capacity < 1 or llm.vocabulary < 1 or any(len(c.shape) != 4 for c in llm.caches):
            raise ValueError("a language model without room")
        if max(llm.capacity, llm.vocabulary) > _MOST_TOKENS:
            raise ValueError(f"{llm.vocabulary} tokens, of which {llm.capacity} are remembered")


class WeightFile(Protocol):
    """What `weights.WeightStore` offers here."""

    def write(self, file: IO[bytes], offset: int) -> Weights:
        """Append them to `file`, which is `offset` bytes long; what to say of them."""


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it there on success, remove it otherwise.

    What processes that were killed have left of the same file is removed.
    """
    _remove_leftovers(path)
    prefix = f".{path.name}.{_writer(os.getpid())}."
    handle, name = tempfile.mkstemp(prefix=prefix, suffix=".part", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        # mkstemp makes files private; an artefact is as public as any other build product.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o777 & ~umask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _writer(pid: int | str) -> str:
    """Who writes a temporary file; with the machine, for folders that several machines share."""
    return f"{platform.node().replace('.', '-')[:32]}.{pid}"


def _remove_leftovers(path: Path) -> None:
    for left in path.parent.glob(f".{glob.escape(path.name)}.{_writer('*')}.*.part"):
        pid = left.name.rsplit(".", 3)[1]
        if not pid.isdigit() or _is_running(int(pid)):
            continue
        with contextlib.suppress(OSError):
            left.unlink()


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # somebody else's
    return True


def append_manifest(
    library: Path, manifest: Manifest, weights: WeightFile | None = None
) -> Manifest:
    """Seal `library`: hash it, append weights, manifest and footer. Returns the manifest."""
    size = library.stat().st_size
    sealed = dataclasses.replace(
        manifest, library_bytes=size, library_sha256=_sha256(library, 0, size)
    )
    with library.open("ab") as file:
        if weights is not None:
            start = -(-size // ALIGNMENT) * ALIGNMENT
            file.write(bytes(start - size))
            sealed = dataclasses.replace(sealed, weights=weights.write(file, start))
        text = sealed.to_json().encode()
        file.write(text)
        file.write(_FOOTER.pack(hashlib.sha256(text).digest(), len(text), _MAGIC))
    return sealed


def read_manifest(path: Path, *, verify: bool = True) -> Manifest:
    """Read and check the description of the artefact at `path` without loading any of its code.

    Args:
        path: the artefact.
        verify: hash the library too (about a second per GB).

    Raises:
        BadInput: no such file, not an artefact, damaged, or of another format version.
    """
    if path.is_dir():
        raise ArtefactUnreadable(
            f"{path}: is a folder; name the .so that `hetero-tvm build {path} -o MODEL.so` writes"
        )
    if not path.is_file():
        raise ArtefactUnreadable(
            f"{path}: no such file; build it with `hetero-tvm build MODEL.onnx -o {path}`"
        )
    size = size_without_signature(path)
    with path.open("rb") as file:
        file.seek(max(0, size - _FOOTER.size))
        footer = file.read(_FOOTER.size)
        if len(footer) < _FOOTER.size or not footer.endswith(_MAGIC):
            raise ArtefactUnreadable(
                f"{path}: not an artefact of hetero_tvm, or cut short; "
                "rebuild it with `hetero-tvm build`"
            )
        digest, length, _ = _FOOTER.unpack(footer)
        start = size - _FOOTER.size - length
        if length > _MAX_MANIFEST_BYTES or start < 0:
            raise ArtefactUnreadable(f"{path}: damaged (manifest length {length}); rebuild it")
        file.seek(start)
        text = file.read(length)
    if hashlib.sha256(text).digest() != digest:
        raise ArtefactUnreadable(
            f"{path}: damaged (its description does not match its checksum); rebuild it"
        )
    try:
        manifest = Manifest.from_json(text.decode())
    except (ValueError, RecursionError) as error:
        raise ArtefactUnreadable(
            f"{path}: made by another version of hetero_tvm ({error}); rebuild it with this one"
        ) from None
    weights = manifest.weights
    end = manifest.library_bytes if weights is None else weights.offset + weights.nbytes
    if end != start:
        raise ArtefactUnreadable(
            f"{path}: damaged ({start} bytes of code and weights, expected {end})"
        )
    if verify and _sha256(path, 0, manifest.library_bytes) != manifest.library_sha256:
        raise ArtefactUnreadable(
            f"{path}: damaged (the code does not match its checksum); rebuild it"
        )
    if verify and weights is not None:
        if _sha256(path, weights.offset, weights.nbytes) != weights.sha256:
            raise ArtefactUnreadable(
                f"{path}: damaged (its weights do not match their checksum); rebuild it"
            )
    return manifest


def size_without_signature(path: Path) -> int:
    """Where the artefact's footer ends: at the file's end, or before its signature."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - SIGNATURE.size))
        block = file.read(SIGNATURE.size)
    signed = len(block) == SIGNATURE.size and block.endswith(SIGNATURE_MAGIC)
    return size - SIGNATURE.size if signed else size


def read_footer(path: Path) -> bytes:
    """The footer's bytes: by its hashes they stand for the whole artefact."""
    with path.open("rb") as file:
        file.seek(size_without_signature(path) - _FOOTER.size)
        return file.read(_FOOTER.size)


def _sha256(path: Path, start: int, length: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(start)
        while length > 0 and (chunk := file.read(min(length, _CHUNK_BYTES))):
            digest.update(chunk)
            length -= len(chunk)
    return digest.hexdigest()
