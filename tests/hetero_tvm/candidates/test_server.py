import emitted
import pytest

from hetero_tvm.candidates.opencl import OpenCl
from hetero_tvm.candidates.pack import PROGRAM_FOLDER
from hetero_tvm.candidates.runner import Folder
from hetero_tvm.candidates.server import Server
from hetero_tvm.candidates.values import Refused


@pytest.fixture
def server(tmp_path, monkeypatch):
    cl = OpenCl(emitted.library(), None)
    emitted.emit(tmp_path, monkeypatch)
    return Server(Folder(tmp_path / PROGRAM_FOLDER), cl)


def test_right_ones_are_timed_beside_the_default(server):
    assert server.hello()["device"] == server.cl.name
    default = server.trial(kernel=0, candidate=0, slow_s=None)
    assert default["how"] == "ok" and default["beside"] == [] and default["error"] < 1e-6
    other = server.trial(kernel=0, candidate=1, slow_s=None)
    assert other["how"] == "ok" and len(other["beside"]) == len(other["seconds"]) == 5
    once = server.trial(kernel=0, candidate=1, slow_s=1e-12)
    assert len(once["seconds"]) == 1
    (raced,) = server.race(kernel=0, candidates=[1], most_s=0.5)["raced"]
    assert 0 < raced["low"] <= raced["gain"] <= raced["high"] and raced["seconds"] > 0


def test_a_wrong_one_is_not_timed(server):
    (first,) = server.folder.kernels
    name = server.folder.path / first["candidates"][1]["file"]
    name.write_text(name.read_text().replace(" + vload", " - vload"))
    answer = server.trial(kernel=0, candidate=1, slow_s=None)
    assert answer.keys() == {"how"} and "wrong on random values: relative error" in answer["how"]


def test_another_generator_is_found_out(server):
    server.folder.kernels[0]["draws"][1]["crc32"][0] ^= 1
    with pytest.raises(Refused, match="draws other inputs"):
        server.trial(kernel=0, candidate=0, slow_s=None)
