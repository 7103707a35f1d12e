"""What a sequence does without a model: pieces, limits, and what is asked of each step."""

import numpy as np
import pytest

from hetero_tvm import bundle
from hetero_tvm.errors import BadInput
from hetero_tvm.token_sequence import TokenSequence, greedy


class Variant:
    def __init__(self, length, predicted_us):
        self.length, self.plan = length, {"predicted_us": predicted_us}


class Manifest:
    variants = (Variant(1, 10.0), Variant(4, 12.0))
    npu_provider = "cpu"


class Counting(TokenSequence):
    """The likeliest token is the last one plus one."""

    def __init__(self):
        description = bundle.LanguageModel(
            caches=(), capacity=12, vocabulary=9, stop_tokens=(8,), texts={}
        )
        super().__init__(Manifest(), description)
        self.asked = []

    def _step(self, rows, tokens, *, wanted):
        self.asked.append((rows, len(tokens), wanted))
        self._tokens += tokens
        return np.eye(9, dtype=np.float32)[(tokens[-1] + 1) % 9]


def test_a_prompt_goes_in_pieces_and_only_the_last_is_asked_for_logits():
    session = Counting()
    assert greedy(session.prefill([1, 2, 3, 4, 5]), ()) == 6
    assert session.asked[-1][2] and not any(wanted for _, _, wanted in session.asked[:-1])
    assert sum(count for _, count, _ in session.asked) == 5 == len(session.tokens)


def test_generates_until_a_stop_the_limit_or_the_end_of_the_cache():
    assert list(Counting().generate([4], max_new_tokens=9)) == [5, 6, 7]
    assert list(Counting().generate([4], max_new_tokens=2)) == [5, 6]
    assert len(list(Counting().generate([4] * 10, max_new_tokens=9, stop_tokens=()))) == 3


def test_what_does_not_fit():
    session = Counting()
    session.prefill([1, 2])
    for tokens, said in (([], "no tokens"), ([9], "0 to 8"), ([1] * 11, "holds 12")):
        with pytest.raises(BadInput, match=said):
            session.prefill(tokens)
    with pytest.raises(BadInput, match="the session has 2"):
        session.reset(3)
    session.reset(1)
    assert session.tokens == (1,)
