"""A line in, a line out, until there are no more."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from hetero_tvm import chat_template

pytest.importorskip("jinja2")


def test_lines():
    requests = [
        {"template": "{{ a }}\n{% if true %}\nx{% endif %}", "values": {"a": "é"}},
        {"template": "{{ raise_exception('no') }}", "values": {}},
        {"template": "{{ {'a': '<'} | tojson }}", "values": {}},
        {"template": "{{ ''.__class__.x }}", "values": {}},
        {"template": "{{ 'xxxx' }}", "values": {}},
    ]
    done = subprocess.run(
        [sys.executable, "-P", str(chat_template._WORKER), "5", str(512 << 20), "9"],
        input="".join(json.dumps(request) + "\n" for request in requests),
        capture_output=True,
        text=True,
        check=True,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert answers[:4] == [{"ready": True}, {"text": "é\nx"}, {"error": "no"}, answers[3]]
    assert "more than 9 characters" in answers[3]["error"]
    assert "unsafe" in answers[4]["error"]
    assert answers[5] == {"text": "xxxx"}
