"""The verb `explain`: ids, drivers' codes, lists, and what is not known."""

import json

import pytest

from hetero_tvm import cli
from hetero_tvm.catalogue import entries
from hetero_tvm.vendor_codes import every


def test_prints_cause_and_next_step_of_an_id(capsys):
    assert cli.main(["explain", "ht2201"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("HT2201  The artefact is missing")
    assert "(exit code 2)" in out and "likely causes" in out
    assert "hetero-tvm build model.onnx" in out


def test_takes_several_as_a_message_ends(capsys):
    assert cli.main(["explain", "HT4003", "OpenCL", "-5", "QNN", "1002"]) == 0
    out = capsys.readouterr().out
    places = [out.index(word) for word in ("HT4003", "CL_OUT_OF_RESOURCES", "QNN_COMMON_ERROR_MEM")]
    assert places == sorted(places)
    assert "source: Khronos" in out


def test_json_has_what_the_text_has(capsys):
    assert cli.main(["explain", "HT2201", "0x80000406", "--json"]) == 0
    error, code = json.loads(capsys.readouterr().out)["entries"]
    assert (error["kind"], error["id"], error["exit_code"]) == ("error", "HT2201", 2)
    assert (code["kind"], code["name"], code["value"]) == ("code", "AEE_EUNABLETOLOAD", 0x80000406)


def test_lists_everything(capsys):
    assert cli.main(["explain", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(entries()) + len(every())


def test_prints_the_schema_of_a_verb(capsys):
    assert cli.main(["explain", "--schema", "build"]) == 0
    assert json.loads(capsys.readouterr().out)["properties"]["verb"] == {"const": "build"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["HT9999"], "HT9999: not known; `hetero-tvm explain --list`"),
        (["QNN"], "QNN: not known"),
        (["QNN", "12"], "QNN 12: not known"),
        ([], "give an id"),
        (["HT2201", "--list"], "give an id"),
    ],
)
def test_says_what_is_not_known(words, said, capsys):
    assert cli.main(["explain", *words]) == 2
    captured = capsys.readouterr()
    assert said in captured.err and captured.out == ""
