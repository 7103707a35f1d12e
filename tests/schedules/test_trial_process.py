import os
import sys

import pytest

from schedules.trial_process import Gone, Identity, Place, Worker

HELLO = """
import json, os, sys, time
sys.stdin.readline(); print(json.dumps({'device': 'd', 'driver': '1'}), flush=True)
for line in sys.stdin:
    do = json.loads(line)['do']
    if do == 'crash': print('the last word', file=sys.stderr, flush=True); os.abort()
    if do == 'leave': os._exit(7)
    if do == 'hang': time.sleep(99)
    if do == 'babble': print('not JSON', flush=True); continue
    print(json.dumps({'pid': os.getpid(), 'mark': os.environ.get('MARK')}), flush=True)
"""


@pytest.fixture
def worker():
    place = Place("here", (sys.executable, "-c", HELLO), (("MARK", "set"),))
    worker = Worker(place, limit_s=20.0)
    yield worker
    worker.stop()


def test_one_process_answers_request_after_request(worker):
    assert worker.start() == Identity(device="d", driver="1")
    first, second = worker.ask({"do": "x"}), worker.ask({"do": "x"})
    assert first == second and first["mark"] == "set" and first["pid"] != os.getpid()


@pytest.mark.parametrize(
    ("do", "kind", "said"),
    [
        ("crash", "crash", r"ended \(signal 6\): the last word"),
        ("leave", "crash", r"ended \(exit code 7\)"),
        ("babble", "crash", "said b'not JSON'"),
        ("hang", "timeout", "no answer within 1 s"),
    ],
)
def test_what_ends_a_process_is_said_and_the_next_one_is_fresh(worker, do, kind, said):
    before = worker.ask({"do": "x"})["pid"]
    worker.limit_s = 1.0 if do == "hang" else 20.0
    with pytest.raises(Gone, match=said) as gone:
        worker.ask({"do": do})
    assert gone.value.kind == kind and worker.process is None
    worker.limit_s = 20.0
    assert worker.ask({"do": "x"})["pid"] != before


def test_a_process_that_cannot_start():
    code = "import sys; print('no driver', file=sys.stderr); sys.exit(3)"
    worker = Worker(Place("far", (sys.executable, "-c", code)), 5.0)
    with pytest.raises(Gone, match="no driver") as gone:
        worker.ask({"do": "x"})
    assert gone.value.kind == "start"
