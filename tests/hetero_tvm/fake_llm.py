"""A language model that does what a test wants, and a small real tokenizer, both made here."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from hetero_tvm.errors import BadInput
from hetero_tvm.text_model import TextModel
from hetero_tvm.tokenizer import Tokenizer

END = "<|end|>"
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_TRAINING = [
    "The quick brown fox jumps over the lazy dog. A hot dog is no dog.",
    "Größe, naïveté, façade: für alle Fälle",
    "世界の言葉、こんにちは",
]


@functools.cache
def tokenizer_texts() -> dict[str, str]:
    """Files of a byte-level tokenizer, so that many characters are several tokens."""
    tokenizers = pytest.importorskip("tokenizers")
    from tokenizers import decoders, models, pre_tokenizers, trainers

    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=[END, "<|user|>", "<|assistant|>", "<|system|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TRAINING, trainer)
    config = {"eos_token": {"content": END}, "chat_template": TEMPLATE}
    return {"tokenizer.json": tokenizer.to_str(), "tokenizer_config.json": json.dumps(config)}


@functools.cache
def tokenizer() -> Tokenizer:
    """The tokenizer of `tokenizer_texts`."""
    return Tokenizer(tokenizer_texts())


class FakeSession:
    """Follows `rule`, tokens so far -> the next token, whose logit is the highest."""

    def __init__(
        self,
        rule: Callable[[Sequence[int]], int],
        *,
        vocabulary: int = 400,
        capacity: int = 256,
        on_step: Callable[[], None] = lambda: None,
    ) -> None:
        self.rule, self.vocabulary, self.capacity, self.on_step = (
            rule,
            vocabulary,
            capacity,
            on_step,
        )
        self.prefilled: list[int] = []  # how many tokens each prefill was given
        self._tokens: list[int] = []

    @property
    def tokens(self) -> tuple[int, ...]:
        return tuple(self._tokens)

    def prefill(self, tokens: Sequence[int]) -> np.ndarray:
        self.prefilled.append(len(tokens))
        return self._append(tokens)

    def decode(self, token: int) -> np.ndarray:
        return self._append([token])

    def reset(self, length: int = 0) -> None:
        assert length <= len(self._tokens)
        del self._tokens[length:]

    def _append(self, tokens: Sequence[int]) -> np.ndarray:
        if not all(0 <= token < self.vocabulary for token in tokens):
            raise BadInput("not a token of this model")
        self._tokens += tokens
        assert len(self._tokens) <= self.capacity
        self.on_step()
        # So far apart that no sampler at temperature 1 ever takes another token.
        logits = np.full(self.vocabulary, -30.0, np.float32)
        logits[self.rule(self._tokens)] = 30.0
        return logits


def says(text: str, **session) -> TextModel:
    """A model that answers every prompt with `text` and ends."""
    words = tokenizer()
    answer = [*words.encode(text), *words.stop_tokens]
    made = FakeSession(lambda tokens: answer[min(_made(tokens, made), len(answer) - 1)], **session)

    def _made(tokens: Sequence[int], session: FakeSession) -> int:
        # The answer begins where the last prompt ended.
        return len(tokens) - session.prompt_end  # type: ignore[attr-defined]

    prefill = made.prefill

    def remember(tokens: Sequence[int]) -> np.ndarray:
        made.prompt_end = len(made.tokens) + len(tokens)  # type: ignore[attr-defined]
        return prefill(tokens)

    made.prefill = remember  # type: ignore[method-assign]
    return TextModel(
        name="fake",
        session=made,
        tokenizer=words,
        stop_tokens=frozenset(words.stop_tokens),
        facts={"target": "host", "cache_bytes": 1000, "placement": {}},
    )
