"""Text into tokens and back, and conversations into text, by the files that came with the model.

`tokenizer.json` is read by Hugging Face's `tokenizers`; a chat template is a Jinja program from
somebody else, so it runs in Jinja's sandbox, in a process with limits (`chat_template`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hetero_tvm import chat_template
from hetero_tvm.errors import MissingPackage, TokenizerUnusable
from hetero_tvm.frontend.llm_folder import read_text

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # what the bytes of half a character decode to
_PATIENCE = 8  # tokens; a character is at most four bytes, and so four tokens
_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token")

Message = Mapping[str, Any]
"""`{"role": "user", "content": "…"}`; what else a template knows may be there too."""


class Tokenizer:
    """What a model's tokenizer files say."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        """Read `texts`, file name -> contents; of these `tokenizer.json` must be there.

        Raises:
            BadInput: it is not, or a file is not what its name says.
            EnvironmentProblem: the package `tokenizers` is missing.
        """
        if "tokenizer.json" not in texts:
            raise TokenizerUnusable(
                "the model came without tokenizer.json; it works on token ids only"
            )
        try:
            import tokenizers
        except ImportError as error:
            raise MissingPackage(f"{error}: pip install 'hetero-tvm[llm]'") from error
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(texts["tokenizer.json"])
        except Exception as error:  # the package raises bare Exception
            raise TokenizerUnusable(f"tokenizer.json: {error}") from error
        # What a file says of training batches is no matter of one text.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        config = _object(texts, "tokenizer_config.json")
        self._words = {**_object(texts, "special_tokens_map.json"), **config}
        self._template = texts.get("chat_template.jinja") or _template(config)

    @classmethod
    def from_folder(cls, folder: Path) -> Tokenizer:
        """Read the files of a model's folder."""
        names = (
            "tokenizer.json",
            "tokenizer_config.json",
            "special_tokens_map.json",
            "chat_template.jinja",
        )
        found = {name: read_text(folder / name) for name in names}
        return cls({name: text for name, text in found.items() if text is not None})

    @property
    def stop_tokens(self) -> tuple[int, ...]:
        """The token that ends a text, where the files name one."""
        word = self._special("eos_token")
        token = self._tokenizer.token_to_id(word) if word else None
        return () if token is None else (token,)

    @property
    def has_chat_template(self) -> bool:
        """Can `chat` be called?"""
        return bool(self._template)

    def encode(self, text: str) -> list[int]:
        """Tokens of a plain text, with what the model wants at its beginning."""
        return list(self._tokenizer.encode(text, add_special_tokens=True).ids)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of `tokens`, without special ones."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))

    def chat(self, messages: Sequence[Message]) -> list[int]:
        """Tokens of a conversation, ready for the model's answer.

        Raises:
            BadInput: the model has no chat template, or its template refuses the messages.
        """
        # The template writes special tokens itself.
        return list(self._tokenizer.encode(self.render(messages), add_special_tokens=False).ids)

    def render(self, messages: Sequence[Message]) -> str:
        """The text that the chat template makes of `messages`; see `chat`."""
        if not self._template:
            raise TokenizerUnusable("the model came without a chat template; give a plain prompt")
        known = {name: self._special(name) for name in _SPECIAL}
        return chat_template.render(
            self._template,
            {
                "messages": [dict(message) for message in messages],
                "add_generation_prompt": True,
                **{name: word for name, word in known.items() if word},
            },
        )

    def stream(self) -> TextStream:
        """A text that grows token by token."""
        return TextStream(self)

    def _special(self, name: str) -> str:
        """A special token's text; it stands in the files bare or in an object."""
        word = self._words.get(name)
        if isinstance(word, dict):
            word = word.get("content")
        return word if isinstance(word, str) else ""


class TextStream:
    """The text of tokens as they come, only ever whole characters.

    A token's text depends on those before it (spaces, accents in several tokens), so each is
    decoded together with the ones since the piece before the last. That is at most a few tokens,
    however long the text is.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._shown: list[int] = []  # tokens of the last piece that was given out
        self._held: list[int] = []  # those after it

    def push(self, token: int) -> str:
        """What can be shown now; nothing while the last character is not whole."""
        self._held.append(token)
        piece = self._new()
        if piece.endswith(_UNFINISHED) and len(self._held) < _PATIENCE:
            return ""
        if piece:
            self._shown, self._held = self._held, []
        return piece

    def finish(self) -> str:
        """What was held back; a character that never became whole is left out."""
        piece = self._new().rstrip(_UNFINISHED)
        self._shown, self._held = [], []
        return piece

    def _new(self) -> str:
        before = self._tokenizer.decode(self._shown)
        return self._tokenizer.decode([*self._shown, *self._held])[len(before) :]


def _object(texts: Mapping[str, str], name: str) -> dict[str, Any]:
    try:
        found = json.loads(texts.get(name) or "{}")
    except (ValueError, RecursionError) as error:
        raise TokenizerUnusable(f"{name}: not JSON ({error})") from error
    if not isinstance(found, dict):
        raise TokenizerUnusable(f"{name}: expected an object")
    return found


def _template(config: Mapping[str, Any]) -> str:
    """The chat template of `tokenizer_config.json`: one, or several with names."""
    found = config.get("chat_template")
    if isinstance(found, list):
        named = [entry for entry in found if isinstance(entry, dict)]
        found = next((e.get("template") for e in named if e.get("name") == "default"), None)
    return found if isinstance(found, str) else ""
