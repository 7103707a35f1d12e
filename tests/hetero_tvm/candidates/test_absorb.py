import json
import shutil

import emitted
import pytest
import tuning_cases as cases

from hetero_tvm.candidates.absorb import absorb
from hetero_tvm.errors import ResultsRefused
from schedules.tuned import pick
from schedules.tuning_db import TuningDb


def _sound(about, fast="k0_1", wrong="k0_2"):
    """Results as run.py would write them: `fast` twice as fast as the default."""
    (kernel,) = about["kernels"]
    results = {}
    for chosen in kernel["candidates"]:
        name = chosen["name"]
        result = {"how": "ok", "seconds": [2e-3], "beside": [1e-3], "error": 1e-7}
        if name == "k0_default":
            result |= {"seconds": [1e-3], "beside": []}
        elif name == fast:
            result |= {"seconds": [0.5e-3]}
        elif name == wrong:
            result = {"how": "wrong on edge values: relative error 3.0e-01"}
        results[name] = {**result, "sha256": about["files"][chosen["file"]]}
    between = {"gain": 2.5, "low": 2.4, "high": 2.6, "pairs": 40}
    races = {kernel["key"]: {fast: {"seconds": 0.4e-3, "default": 1e-3, **between}}}
    named = {"format": 1, "id": about["id"], "device": "Adreno", "driver": "7"}
    return {**named, "results": results, "races": races}


@pytest.fixture(scope="module")
def emission(tmp_path_factory):
    """A folder with a database that candidates were emitted with, their id, the kernel's job."""
    folder = tmp_path_factory.mktemp("emitted")
    with pytest.MonkeyPatch.context() as patch:
        packed, job, _ = emitted.emit(folder, patch, count=4)
    return folder, packed, job


@pytest.fixture
def sent(emission, tmp_path):
    """Folder, what was emitted, its job, and sound results."""
    folder, packed, job = emission
    shutil.copytree(folder / "db", tmp_path / "db")
    about = json.loads((tmp_path / "db/emitted" / f"{packed.id}.json").read_text())
    return tmp_path, about, job, _sound(about)


def _absorb(folder, found):
    path = folder / "results.json"
    path.write_text(found if isinstance(found, str) else json.dumps(found))
    return absorb(path, TuningDb(folder / "db"))


def test_the_best_right_one_is_what_a_build_takes(sent):
    folder, _, job, sound = sent
    taken = _absorb(folder, sound)
    assert (taken.fresh, taken.good, taken.quarantined, taken.missing) == (4, 3, 1, 0)
    db = TuningDb(folder / "db")
    standing = db.standings()[job.kernel.key, taken.where]
    assert standing.best()[1] == 0.5e-3 and standing.gain == pytest.approx(2.5)
    assert (standing.race.low, standing.race.high) == (2.4, 2.6)
    ((_, why),) = standing.quarantined()
    assert why.startswith("wrong on edge values")
    found, _ = pick(db, job.kernel.key, cases.LIMIT, ("Adreno", "7"))
    assert found is not None and found.choice == standing.best()[0]
    assert db.kernels()[job.kernel.key] == job.kernel


def test_races_of_earlier_programs_are_seconds_alone(sent):
    folder, _, job, sound = sent
    sound["races"] = {job.kernel.key: {"k0_1": [0.4e-3, 1e-3]}}
    taken = _absorb(folder, sound)
    standing = TuningDb(folder / "db").standings()[job.kernel.key, taken.where]
    assert standing.gain == pytest.approx(2.5) and standing.race.low is None


def test_a_gain_that_is_not_sure_is_not_used(sent):
    folder, _, job, sound = sent
    sound["races"][job.kernel.key]["k0_1"] |= {"gain": 1.1, "low": 0.97, "high": 1.2}
    _absorb(folder, sound)
    db = TuningDb(folder / "db")
    found, why = pick(db, job.kernel.key, cases.LIMIT, ("Adreno", "7"))
    assert found is None and why.startswith("the default is the best that was verified")


def test_a_time_is_a_ratio_to_the_default(sent):
    """The device was twice as slow while this candidate ran."""
    folder, _, job, sound = sent
    sound["results"]["k0_1"] |= {"seconds": [1e-3], "beside": [2e-3]}
    taken = _absorb(folder, sound)
    standing = TuningDb(folder / "db").standings()[job.kernel.key, taken.where]
    assert standing.best()[1] == pytest.approx(0.5e-3)


def test_a_second_time_is_nothing_new(sent):
    folder, _, _, sound = sent
    half = {**sound, "results": {n: r for n, r in sound["results"].items() if n != "k0_3"}}
    assert _absorb(folder, half).missing == 1
    assert _absorb(folder, sound).fresh == 1
    before = len(TuningDb(folder / "db").records)
    assert _absorb(folder, sound).fresh == 0
    assert len(TuningDb(folder / "db").records) == before


def test_crashes_are_quarantined_and_a_wrong_default_is_known(sent):
    folder, _, job, sound = sent
    sound["results"]["k0_1"] = {**sound["results"]["k0_2"], "how": "crash: its process ended"}
    sound["results"]["k0_1"]["sha256"] = sent[1]["files"]["kernels/k0_1.cl"]
    sound["results"]["k0_default"] |= {"how": "wrong on random values: relative error 1"}
    sound["races"] = {}
    taken = _absorb(folder, sound)
    standing = TuningDb(folder / "db").standings()[job.kernel.key, taken.where]
    assert not standing.default_good and standing.default_s is None
    assert any(why.startswith("crash") for _, why in standing.quarantined())


def _with(path, value):
    def change(found, _about):
        *outer, last = path
        place = found
        for key in outer:
            place = place[key]
        place[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_with(["id"], "abc"), "candidates that were not emitted with the database"),
        (_with(["id"], "../../etc"), "candidates that were not emitted with the database"),
        (_with(["format"], 2), "of another version of run.py"),
        (_with(["device"], 3), "damaged, or changed by hand"),
        (_with(["results", "k0_1", "seconds"], []), "damaged, or changed by hand"),
        (_with(["results", "k0_1", "seconds"], [-1.0]), "damaged, or changed by hand"),
        (_with(["results", "k0_1", "beside"], [0.0]), "damaged, or changed by hand"),
        (_with(["results", "k0_1", "seconds"], [10**400]), "damaged, or changed by hand"),
        (_with(["results", "k0_1", "error"], 10**400), "damaged, or changed by hand"),
        (_with(["results", "k0_1", "error"], float("nan")), "damaged, or changed by hand"),
        (_with(["results", "k0_1"], "fast"), "damaged, or changed by hand"),
        (_with(["races"], {"x": {"k0_1": [1.0]}}), "damaged, or changed by hand"),
        (_with(["races"], {"x": {"k0_1": {"seconds": 1.0}}}), "damaged, or changed by hand"),
        (
            _with(["races"], {"x": {"k0_1": {"seconds": 1.0, "default": 1.0, "low": -1.0}}}),
            "damaged, or changed by hand",
        ),
        (
            _with(["races"], {"x": {"k0_1": {"seconds": 1.0, "default": 1.0, "key": 1.0}}}),
            "damaged, or changed by hand",
        ),
        (_with(["results", "k0_1", "sha256"], "0"), "of k0_1 another kernel was measured"),
        (
            lambda found, about: found["results"].update(k7_0=found["results"]["k0_1"]),
            "a result of k7_0, which was not emitted",
        ),
    ],
)
def test_foreign_and_damaged_results_change_nothing(sent, change, said):
    folder, about, _, sound = sent
    change(sound, about)
    with pytest.raises(ResultsRefused, match=said):
        _absorb(folder, sound)
    assert TuningDb(folder / "db").records == []


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"results": 1, "id": "a", "format": 1}'])
def test_no_results_at_all(sent, text):
    with pytest.raises(ResultsRefused, match=r"results\.json: "):
        _absorb(sent[0], text)


def test_results_of_another_device(sent):
    folder, about, _, sound = sent
    about["only"] = {"device": "Adreno", "driver": "6"}
    (folder / "db/emitted" / f"{about['id']}.json").write_text(json.dumps(about))
    with pytest.raises(ResultsRefused, match="with driver 7, but these candidates were chosen for"):
        _absorb(folder, sound)
