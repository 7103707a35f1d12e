"""Templates that compute, allocate or write without end are told so, and the next one works."""

from __future__ import annotations

import concurrent.futures
import os
import time

import pytest

from hetero_tvm import chat_template
from hetero_tvm.errors import BadInput

pytest.importorskip("jinja2")
HELLO = "{{ word }}, {{ messages | length }}"


def _works():
    assert chat_template.render(HELLO, {"word": "hé\ud800", "messages": [1]}) == "hé\ud800, 1"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "for more than 2 s",
        ),
        ("{{ 'x' * 10**10 }}", "512 MiB of memory"),
        ("{{ '%1000000000d' % 1 }}", "512 MiB of memory"),
        ("{% for i in range(9000) %}{{ 'x' * 1000 }}{% endfor %}", "more than 4194304 characters"),
        ("{{ 'x'.ljust(2**22 + 1) }}", "more than 4194304 characters"),
        ("{% for %}", "Expected"),
    ],
)
def test_limits(template, said):
    began = time.monotonic()
    with pytest.raises(BadInput, match="the model's chat template refuses the messages") as refused:
        chat_template.render(template, {})
    assert said in str(refused.value)
    assert time.monotonic() - began < 2 * chat_template._PATIENCE_S
    _works()


def test_a_number_without_end():
    """One operation of Python's, which no check between operations would end."""
    with pytest.raises(BadInput, match=r"more than 2 s|of memory|Exceeds the limit"):
        chat_template.render("{{ 9 ** (9 ** 9) }}", {})
    _works()


def test_the_process_may_be_killed_at_any_time():
    _works()
    chat_template._worker._process.kill()
    chat_template._worker._process.wait()
    _works()


def test_threads_take_turns_and_share_one_process():
    _works()
    process = chat_template._worker._process.pid
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        texts = [pool.submit(chat_template.render, "{{ n }}", {"n": n}) for n in range(40)]
    assert [text.result() for text in texts] == [str(n) for n in range(40)]
    assert chat_template._worker._process.pid == process
    assert os.getpgid(process) == process  # Ctrl-C is not for it


def test_values_that_are_no_plain_data():
    with pytest.raises(BadInput, match="not plain data"):
        chat_template.render(HELLO, {"word": object()})
