"""A loaded language model with its tokenizer: what the verbs on text have in common."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hetero_tvm.completion import Completion, Options, Session
from hetero_tvm.errors import TokenizerUnusable
from hetero_tvm.surroundings import Surroundings
from hetero_tvm.tokenizer import Message, Tokenizer

if TYPE_CHECKING:
    from hetero_tvm.token_sequence import TokenSequence


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextModel:
    """A session, and what turns text into its tokens and back."""

    name: str
    session: Session
    tokenizer: Tokenizer | None  # None: it works on token ids
    stop_tokens: frozenset[int] = frozenset()
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What ran where, for people: see `facts_of`."""
    surroundings: Surroundings = dataclasses.field(default_factory=Surroundings)
    """The machine that the session is on."""

    def plain(self, text: str) -> list[int]:
        """Tokens of a plain prompt."""
        return self._text().encode(text)

    def chat(self, messages: Sequence[Message]) -> list[int]:
        """Tokens of a conversation, up to where the answer begins."""
        return self._text().chat(messages)

    def complete(
        self,
        prompt: Sequence[int],
        options: Options,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Completion:
        """A completion that also ends at the model's own stop tokens."""
        stops = self.stop_tokens | frozenset(options.stop_tokens)
        return Completion(
            self.session,
            self.tokenizer.stream() if self.tokenizer else None,
            prompt,
            dataclasses.replace(options, stop_tokens=stops),
            cancelled,
        )

    def _text(self) -> Tokenizer:
        if self.tokenizer is None:
            raise TokenizerUnusable(
                "the model came without tokenizer.json and works on token ids: give them "
                "(generate: --ids 1,2,3)"
            )
        return self.tokenizer


def open_text_model(path: Path, device: str | None = None) -> TextModel:
    """Load the artefact at `path`, on the OpenCL device `device` (index or part of its name).

    Raises:
        BadInput, EnvironmentProblem, DeviceFailure: as `load_llm` and `Tokenizer`.
    """
    from hetero_tvm import runtime
    from hetero_tvm.llm_session import load_llm

    if device is not None:
        runtime.configure(opencl_device=device)
    return _with_texts(path.stem, load_llm(path))


@contextlib.contextmanager
def opened_text_model(path: Path, to: str, root: str | None) -> Iterator[TextModel]:
    """As `open_text_model`, where it is deployed or served: at the address `to`.

    Raises:
        BadInput, DeviceFailure: as `open_model.opened_llm`; also as `Tokenizer`.
    """
    from hetero_tvm.open_model import opened_llm

    with opened_llm(path, to, root) as session:
        yield _with_texts(path.stem, session)


def _with_texts(name: str, session: TokenSequence) -> TextModel:
    texts = session.description.texts
    tokenizer = Tokenizer(texts) if "tokenizer.json" in texts else None
    stops = {*session.description.stop_tokens, *(tokenizer.stop_tokens if tokenizer else ())}
    return TextModel(
        name=name,
        session=session,
        tokenizer=tokenizer,
        stop_tokens=frozenset(stops),
        facts=facts_of(session),
        surroundings=session.surroundings,
    )


def facts_of(session: TokenSequence) -> dict[str, Any]:
    """What is known of a session before it runs: target, load time, cache, what runs where."""
    manifest = session.manifest
    return {
        "target": manifest.target,
        "npu": manifest.npu_provider if manifest.npu_regions else None,
        "load_s": session.load_seconds,
        "cache_bytes": session.cache_bytes,
        "capacity": session.capacity,
        "placement": {
            str(variant.length): {
                "operators": operators_by_device(variant.plan["ops"]),
                "macs": macs_by_device(variant.plan["ops"]),
                "npu_regions": variant.npu_regions,
            }
            for variant in manifest.variants
        },
    }


def operators_by_device(ops: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many operators run on each device; `gpu+npu` are cut between both."""
    return dict(Counter(op["device"] for op in ops))


def macs_by_device(ops: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Multiply-accumulates that each device does."""
    total: Counter[str] = Counter()
    for op in ops:
        if split := op["split"]:
            on_npu = round(op["macs"] * split["at"] / split["extent"])
            total.update({"npu": on_npu, "gpu": op["macs"] - on_npu})
        else:
            total[op["device"]] += op["macs"]
    return dict(total)
