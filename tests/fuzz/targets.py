"""What is fed with bytes that nobody vouches for, in Python; the C++ parsers are in `cpp/`.

A target takes bytes and returns; it may refuse them by the errors that users are shown as one line.
Anything else, a crash, a hang or too much memory is a find: `run.py` reports it, `corpus/` keeps
what led to it, and it becomes a test beside the module at fault.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from hetero_tvm.errors import BadInput, HeteroError

Target = Callable[[bytes], None]

_MEMORY = Path("/dev/shm")  # files that no disk has to take


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="hetero_fuzz_", dir=_MEMORY if _MEMORY.is_dir() else None))
    try:
        yield path
    finally:
        shutil.rmtree(path)


def _file(name: str, data: bytes, folder: Path) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def onnx_import(data: bytes) -> None:
    """A model, up to Relax; not compiled."""
    from hetero_tvm.frontend import import_model

    with _folder() as folder, contextlib.suppress(HeteroError):
        import_model(_file("model.onnx", data, folder), check=False)


def onnx_file(data: bytes) -> None:
    """A model's file alone, with external data beside it."""
    from hetero_tvm.frontend.read_model import read_model, read_structure, read_tensor

    with _folder() as folder:
        (folder / "weights.bin").write_bytes(bytes(64))
        path = _file("model.onnx", data, folder)
        with contextlib.suppress(BadInput):
            read_model(path)
        with contextlib.suppress(BadInput):
            for tensor in read_structure(path).graph.initializer:
                with contextlib.suppress(BadInput):
                    read_tensor(path, tensor)


def manifest(data: bytes) -> None:
    """An artefact's end; first byte 0: a whole file, else a description to be sealed.

    2: with a page of zeros before it, which may be weights.
    """
    from hetero_tvm import bundle
    from hetero_tvm.weights_layout import read_weights

    if not data:
        return
    file = data[1:]
    if data[0]:
        file += bundle._FOOTER.pack(hashlib.sha256(file).digest(), len(file), bundle._MAGIC)
    if data[0] == 2:
        file = bytes(4096) + file
    with _folder() as folder, contextlib.suppress(BadInput):
        path = _file("model.so", file, folder)
        read = bundle.read_manifest(path)
        for spec in (*read.inputs, *read.outputs):
            assert spec.size_bytes >= 0
        if read.weights is not None:
            read_weights(path, read.weights)


def weights(data: bytes) -> None:
    """What a manifest says of weights, over a file of 64 KiB."""
    from hetero_tvm.typed_json import from_object, parse_object
    from hetero_tvm.weights_layout import Weights, read_weights

    with _folder() as folder:
        path = _file("model.so", bytes(1 << 16), folder)
        try:
            described = from_object(Weights, parse_object(data))
            described.check()
        except ValueError:
            return
        if described.offset + described.nbytes > 1 << 16:
            return  # `read_manifest` holds it against the file's size
        for array in read_weights(path, described):
            assert array.nbytes <= 1 << 16
            array.sum()  # no page is behind the file's end


def tuning_db(data: bytes) -> None:
    """Records; those lines that begin with `!` get the checksum that they would have."""
    from schedules import tuning_db as db
    from schedules.tuning_records import header_line

    lines = []
    for line in data.split(b"\n"):
        if line.startswith(b"!"):
            try:
                text = json.dumps(json.loads(line[1:]), sort_keys=True).encode()
            except (ValueError, RecursionError):
                continue
            line = b'{"sum": %d, ' % zlib.crc32(text) + text[1:]
        lines.append(line)
    with _folder() as folder, contextlib.suppress(db.DbRefused):
        (folder / db.FILE).write_bytes(header_line() + b"\n".join(lines) + b"\n")
        for write in (False, True):
            opened = db.TuningDb(folder, write=write)
        kernels = opened.kernels()
        for (_, where), standing in opened.standings().items():
            assert standing.gain is None or standing.gain >= 0
            for kernel in kernels.values():
                opened.neighbours(kernel, where)
        opened.merge(folder)
        opened.export(folder / "out.jsonl")


def target_spec(data: bytes) -> None:
    """A SoC's description, or a language model's."""
    from target_specs.llm import load_llm
    from target_specs.loader import SpecError, load_spec
    from target_specs.writer import to_toml

    with _folder() as folder:
        path = _file("target.toml", data, folder)
        with contextlib.suppress(SpecError):
            load_llm(path)
        with contextlib.suppress(SpecError):
            spec = load_spec(path)
            assert load_spec(_file("again.toml", to_toml(spec).encode(), folder)) == spec


class _Line:
    """A socket that says `data`, at most `piece` bytes at a time, then hangs up."""

    def __init__(self, data: bytes, piece: int = 7) -> None:
        self.left, self.piece, self.sent = data, piece, bytearray()

    def recv(self, size: int) -> bytes:
        assert 0 < size <= 1 << 16, "asks for more than one block"
        taken, self.left = self.left[: min(size, self.piece)], self.left[min(size, self.piece) :]
        return taken

    def sendall(self, data: bytes) -> None:
        self.sent += data

    def settimeout(self, _seconds: float | None) -> None:
        pass


def device_frames(data: bytes) -> None:
    """What a client says to the device server: its greeting, then messages of TVM's RPC."""
    from hetero_tvm.device_server import Refused, Server, _hello, _same

    most = 256
    line = _Line(data)
    with contextlib.suppress(EOFError, Refused):
        said = _hello(line, time.monotonic() + 10)  # type: ignore[arg-type]
        assert not _same(said.get("token"), "the-token-that-nobody-knows")
    server = Server(Path("/none"), None, None, most_bytes=most)  # type: ignore[arg-type]
    line, session = _Line(data, piece=1 + len(data) // 3), _Line(b"")
    server._carry_checked(line, session)  # type: ignore[arg-type]
    carried = bytes(session.sent)
    assert data.startswith(carried)
    at = 0  # what arrives are whole lengths, none above the limit
    while at + 8 <= len(carried):
        size = int.from_bytes(carried[at : at + 8], "little")
        assert size <= most
        at += 8 + size


def session_files(data: bytes) -> None:
    """Names and pieces of files that a session sends; none lies outside its folder."""
    from hetero_tvm.device_session import Folder

    name, _, rest = data.partition(b"\n")
    digest, _, content = rest.partition(b"\n")
    text = name.decode("utf-8", "surrogateescape")
    with _folder() as folder:
        (folder / "out").mkdir()
        (folder / "in").mkdir()
        (folder / "in" / "link").symlink_to(folder / "out")
        session = Folder(folder / "in")
        with contextlib.suppress(BadInput, OSError):
            assert session.path(text).is_relative_to(folder / "in")
        with contextlib.suppress(BadInput, OSError):
            session.append(digest.decode("latin-1"), text, 0, content)
            session.finish(digest.decode("latin-1"), text)
        assert not list((folder / "out").iterdir())


def tokenizer(data: bytes) -> None:
    """`tokenizer_config.json`, or after a first byte 1 `tokenizer.json`, 2 a chat template."""
    from fake_llm import tokenizer_texts

    from hetero_tvm.tokenizer import Tokenizer

    names = {1: "tokenizer.json", 2: "chat_template.jinja"}
    kind, rest = (data[0], data[1:]) if data[:1] in (b"\1", b"\2") else (0, data)
    texts = dict(tokenizer_texts())
    texts[names.get(kind, "tokenizer_config.json")] = rest.decode("utf-8", "replace")
    if kind == 2:
        _read_template(texts["chat_template.jinja"])
    with contextlib.suppress(BadInput):
        words = Tokenizer(texts)
        assert all(isinstance(token, int) for token in words.stop_tokens)
        stream = words.stream()
        for token in words.encode("hot dog 世界")[:20]:
            stream.push(token)
        stream.finish()
        if words.has_chat_template:
            words.chat([{"role": "user", "content": "dog?"}])


def _read_template(text: str) -> None:
    """Jinja's parser here, too: templates run in a process whose branches guide nobody."""
    import jinja2

    with contextlib.suppress(jinja2.TemplateError, RecursionError, ValueError, OverflowError):
        jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).parse(text)


def llm_folder(data: bytes) -> None:
    """The configuration files of a language model's folder, all of them the same text."""
    from hetero_tvm.frontend.llm_folder import read_llm_folder

    with _folder() as folder:
        for name in ("config.json", "genai_config.json", "generation_config.json"):
            _file(name, data, folder)
        shutil.copy(Path(__file__).parent / "corpus" / "llm.onnx", folder / "model.onnx")
        with contextlib.suppress(BadInput):
            read = read_llm_folder(folder)
            assert read.context > 0 and all(cache.depth > 0 for cache in read.caches)
            assert all(isinstance(token, int) for token in read.stop_tokens)


def quantisation(data: bytes) -> None:
    """The file that says which layers are quantised how."""
    from hetero_tvm.block_quantization import Settings
    from hetero_tvm.layer_settings import read_overrides, settings_of

    names = ["/layers.0/up", "/layers.1/up", "/lm_head"]
    with _folder() as folder, contextlib.suppress(BadInput):
        overrides = read_overrides(_file("layers.toml", data, folder))
        settings_of(names, frozenset(names[-1:]), Settings(), overrides)


def requests(data: bytes) -> None:
    """A request's body, to both forms of completion, through the whole application."""
    import anyio
    from fake_llm import says

    from hetero_tvm.openai_app import make_app

    async def ask(path: str) -> None:
        sent = []
        body = [{"type": "http.request", "body": data}]

        async def receive() -> dict:
            if body:
                return body.pop()
            await anyio.sleep(60)  # nobody hangs up
            return {"type": "http.disconnect"}

        async def send(message: dict) -> None:
            sent.append(message)

        headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode()}
        scope |= {"query_string": b"", "headers": headers, "http_version": "1.1", "scheme": "http"}
        await app({**scope, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2)}, receive, send)
        assert sent[0]["status"] < 500, sent

    for path in ("/v1/chat/completions", "/v1/completions"):
        app = make_app(says("dog", capacity=64))
        anyio.run(ask, path)


def saved_cache(data: bytes) -> None:
    """A language model's cache, as `LlmSession.save` writes it."""
    from hetero_tvm.llm_session import read_saved

    with _folder() as folder, contextlib.suppress(BadInput):
        found = read_saved(_file("cache.npz", data, folder))
        assert all(array.dtype.kind != "O" for array in found.values())


TARGETS: dict[str, Target] = {
    function.__name__: function
    for function in (
        onnx_import,
        onnx_file,
        manifest,
        weights,
        tuning_db,
        target_spec,
        device_frames,
        session_files,
        tokenizer,
        llm_folder,
        quantisation,
        requests,
        saved_cache,
    )
}
