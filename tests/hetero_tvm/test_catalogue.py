"""Every error has an id, every id an explanation, and nothing is explained that is never raised."""

import ast
import re
import shlex
import tomllib
from pathlib import Path

import pytest

import hetero_tvm
from hetero_tvm import cli, errors
from hetero_tvm.catalogue import entries, kinds

PACKAGE = Path(hetero_tvm.__file__).parent
BASES = {"HeteroError", "ComparisonFailed", "BadInput", "EnvironmentProblem", "DeviceFailure"}


def name_of(node):
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else ""


@pytest.fixture(scope="module")
def source():
    """Classes of errors that derive from ours, by name, and the names that are called."""
    classes = {kind.__name__: kind.__name__ for kind in kinds().values()}
    called, declared = set(), []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and path.name != "errors.py":
                for base in map(name_of, node.bases):
                    if base in classes:
                        classes[node.name] = classes[base]
                        declared += [
                            (path.name, node.name)
                            for line in node.body
                            if isinstance(line, ast.Assign) and name_of(line.targets[0]) == "id"
                        ]
            elif isinstance(node, ast.Call):
                called.add(name_of(node.func))
    return classes, called, declared


def test_every_kind_has_an_id_of_its_own_and_an_entry():
    declaring = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.HeteroError)
    ]
    assert [kind.__name__ for kind in declaring if "id" not in vars(kind)] == []
    assert len(kinds()) == len(declaring), "an id is used twice"
    assert set(kinds()) == set(entries())


def test_ids_are_declared_in_one_place(source):
    _, _, declared = source
    assert declared == []


def test_every_entry_is_raised_somewhere(source):
    classes, called, _ = source
    raised = {classes[name] for name in called if name in classes}
    assert {kind.__name__ for kind in kinds().values()} - raised == set()


@pytest.mark.parametrize("id_", entries())
def test_the_first_digit_is_the_exit_code(id_):
    assert id_.startswith(f"HT{entries()[id_].exit_code}") and len(id_) == 6


@pytest.mark.parametrize("entry", entries().values(), ids=list(entries()))
def test_an_entry_helps(entry):
    assert entry.title and len(entry.title) < 90
    assert len(entry.means) > 40
    assert entry.causes and entry.next


@pytest.fixture(scope="module")
def parser():
    return cli.build_parser()


COMMANDS = [
    step.split("   ")[0].split(", ")[0].split(" >")[0]
    for entry in entries().values()
    for step in entry.next
    if step.startswith("hetero-tvm") and " VERB" not in step and "--help" not in step
]


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_to_be_done_next_can_be_done(command, parser):
    if " explain " in command:  # of numbers that only the message knows
        return
    words = shlex.split(command.replace("--target …", "--target host").replace("…", ""))[1:]
    if words[0] in ("build", "deploy") and words[1:2] and words[1].startswith("-"):
        words.insert(1, "model")
    try:
        parser.parse_args(words)
    except errors.UsageError as error:
        assert "are required" in str(error)  # what an ellipsis stands for


def test_flags_in_the_texts_exist(parser):
    ours = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", parser.format_help()))
    for verb in cli.VERBS:
        ours |= set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", verb_help(parser, verb)))
    codes = (PACKAGE / "vendor_codes.toml").read_text()
    texts = " ".join(entry.means + " ".join(entry.causes) for entry in entries().values())
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", codes + texts)) <= ours


def verb_help(parser, verb):
    (verbs,) = (action for action in parser._actions if action.dest == "verb")
    return verbs.choices[verb].format_help()


def test_the_file_is_in_order():
    ids = list(tomllib.loads((PACKAGE / "errors.toml").read_text()))
    assert ids == sorted(ids)


def test_ids_never_change():
    """Ids are in people's notes and searches: one may be added, none renamed or used again."""
    assert set(entries()) >= {
        "HT1000", "HT2000", "HT2001", "HT2101", "HT2103", "HT2201", "HT2202", "HT3001", "HT4000",
        "HT4003", "HT5000",
    }  # fmt: skip
    assert errors.ArtefactUnreadable.id == "HT2201" and errors.UsageError.id == "HT2001"
