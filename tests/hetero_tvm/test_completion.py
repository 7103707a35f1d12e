"""A completion on a model that follows a rule."""

from __future__ import annotations

import pytest
from fake_llm import FakeSession, says, tokenizer

from hetero_tvm.completion import Completion, Options, usage
from hetero_tvm.errors import BadInput
from hetero_tvm.sampling import Sampling

_ANSWER = "A hot dog 世界 is no dog."


def _next(tokens):
    return tokens[-1] + 1


def test_pieces_tokens_and_counts():
    model = says(_ANSWER)
    prompt = tokenizer().encode("dog?")
    completion = model.complete(prompt, Options())
    assert "".join(completion) == _ANSWER
    assert completion.finish_reason == "stop"
    assert completion.tokens == tokenizer().encode(_ANSWER)
    timing = completion.timing
    assert (timing.prefill_tokens, timing.decode_tokens) == (len(prompt), len(completion.tokens))
    assert timing.ttft_s >= timing.prefill_s > 0
    assert timing.decode_tokens_per_s > 0
    assert usage(completion, prompt)["total_tokens"] == len(prompt) + len(completion.tokens)


def test_the_limit_ends_it_without_another_step():
    session = FakeSession(_next)
    completion = Completion(session, None, [1, 2], Options(max_new_tokens=3))
    assert list(completion) == ["", "", "", ""]
    assert completion.tokens == [3, 4, 5]
    assert completion.finish_reason == "length"
    assert session.tokens == (1, 2, 3, 4)


def test_a_full_cache_ends_it():
    completion = Completion(FakeSession(_next, capacity=5), None, [1, 2], Options())
    list(completion)
    assert completion.tokens == [3, 4, 5]


def test_stop_tokens_and_stop_strings():
    completion = Completion(FakeSession(_next), None, [1], Options(stop_tokens=[4]))
    list(completion)
    assert completion.tokens == [2, 3]
    completion = says(_ANSWER).complete([5], Options(stop_strings=["t do", "never"]))
    assert "".join(completion) == "A ho"
    assert completion.finish_reason == "stop"


def test_a_token_that_ends_both_a_character_and_a_stop_string():
    assert "".join(says(_ANSWER).complete([5], Options(stop_strings=["界"]))) == "A hot dog 世"


def test_what_the_cache_holds_is_not_computed_again():
    session = FakeSession(_next)
    list(Completion(session, None, [1, 2, 3], Options(max_new_tokens=3)))
    assert session.tokens == (1, 2, 3, 4, 5)
    again = Completion(session, None, [1, 2, 3, 4, 9, 10], Options(max_new_tokens=1))
    list(again)
    assert session.prefilled == [3, 2]
    assert again.timing.reused_tokens == 4
    assert again.tokens == [11]
    # The same prompt once more: its last token's logits are still needed.
    list(Completion(session, None, [1, 2, 3, 4, 9, 10], Options(max_new_tokens=1)))
    assert session.prefilled == [3, 2, 1]


def test_a_seed_makes_it_repeatable():
    def tokens(seed) -> list[int]:
        sampling = Sampling(temperature=30.0, seed=seed)
        completion = Completion(
            FakeSession(_next), None, [1], Options(max_new_tokens=9, sampling=sampling)
        )
        list(completion)
        return completion.tokens

    assert tokens(3) == tokens(3) != tokens(4)


def test_cancelling_ends_it_before_the_next_step():
    session = FakeSession(_next)
    completion = Completion(session, None, [1], Options(), cancelled=lambda: True)
    list(completion)
    assert completion.tokens == [2]
    assert session.tokens == (1,)


@pytest.mark.parametrize(
    ("prompt", "options", "said"),
    [
        ([], {}, "empty"),
        ([1] * 8, {}, "8 tokens.*may have 8"),
        ([1], {"max_new_tokens": 0}, "at least 1"),
        ([1], {"stop_strings": [""]}, "empty"),
    ],
)
def test_requests_that_cannot_be_met(prompt, options, said):
    with pytest.raises(BadInput, match=said):
        Completion(FakeSession(_next, capacity=8), None, prompt, Options(**options))
