import pytest
import tuning_cases as cases

from schedules import kernel_search
from schedules.measure import Pool
from schedules.trial_process import Identity
from schedules.tuned import Pick, pick
from schedules.tuner import Tuner, reverify
from schedules.tuning_db import TuningDb
from schedules.tuning_records import Where

pytest.importorskip("xgboost")
FAKE = ("fake", "1")


@pytest.fixture(autouse=True)
def small_populations(monkeypatch):
    """What is tested does not depend on how much the search thinks."""
    monkeypatch.setattr(kernel_search, "_POPULATION", 10)
    monkeypatch.setattr(kernel_search, "_FRESH", 8)
    monkeypatch.setattr(kernel_search, "_GENERATIONS", 1)


def _tune(folder, pool, jobs, trials=20, **more):
    tuner = Tuner(pool, TuningDb(folder), limit=cases.LIMIT, target=cases.TARGET, seed=1, **more)
    shown = []
    tuner.run(jobs, trials=trials, budget_s=None, show=shown.append)
    return tuner, shown


@pytest.fixture
def job():
    return cases.job(cases.product())


def test_finds_better_ones_and_says_how_far_it_is(tmp_path, job):
    tuner, shown = _tune(tmp_path, cases.FakePool(cases.product()), [job])
    standing = tuner.standing(job)
    # What is not clearly better is not worth a proof.
    assert standing.gain > 1.3
    assert standing.best()[1] <= min(s for _, s in standing.trials) / 0.98
    assert [p.done for p in shown][-1] == 20 and shown[-1].left_s == 0
    assert shown[-1].gain == pytest.approx(tuner.gain([job]))


def test_wrong_ones_are_never_chosen_and_nothing_is_lost(tmp_path, job):
    """A third of all schedules is wrong, and the fastest by far."""

    def wrong(mod):
        return len(mod.script()) % 3 == 0 and mod.script() != pool.default

    pool = cases.FakePool(cases.product(), wrong=wrong)
    told = []
    tuner, _ = _tune(tmp_path, pool, [job], tell=told.append)
    standing = tuner.standing(job)
    assert len(standing.trials) == 20
    assert standing.best()[1] > 1e-4  # no wrong one
    assert standing.quarantined() and all("wrong on" in why for _, why in standing.quarantined())
    assert any("quarantined" in line for line in told)
    found, _ = pick(TuningDb(tmp_path), job.kernel.key, cases.LIMIT, FAKE)
    assert found is not None and found.choice == standing.best()[0]


def test_goes_on_where_it_ended(tmp_path, job):
    _tune(tmp_path, cases.FakePool(cases.product()), [job], trials=10)
    second = cases.FakePool(cases.product())
    tuner, _ = _tune(tmp_path, second, [job], trials=20)
    assert len(second.timed) == 10  # neither the default nor the first trials again
    choices = [choice for choice, _ in tuner.standing(job).trials]
    assert len(set(choices)) == 20
    third = cases.FakePool(cases.product())
    _tune(tmp_path, third, [job], trials=20)
    assert not third.timed


def test_the_heavier_kernel_has_more_trials(tmp_path):
    product = cases.product()
    heavy, light = cases.job(product, calls=20), cases.job(cases.product(48), calls=1)
    pool = _Two(product, cases.product(48))
    tuner, _ = _tune(tmp_path, pool, [light, heavy], trials=24)
    assert len(tuner.standing(heavy).trials) >= 20


class _Two(cases.FakePool):
    """A pool for two kernels."""

    def __init__(self, one, other):
        super().__init__(one)
        self.others = {2 * 48: cases.FakePool(other)}

    def outputs(self, mod, inputs):
        pool = self.others.get(2 * inputs[0].shape[0], super())
        return pool.outputs(mod, inputs)


def test_a_wrong_default_is_said_and_replaced(tmp_path, job):
    pool = cases.FakePool(cases.product(), wrong=lambda mod: mod.script() == pool.default)
    told = []
    tuner, _ = _tune(tmp_path, pool, [job], trials=8, tell=told.append)
    assert "its default schedule is wrong here" in told[0]
    assert not tuner.standing(job).default_good and tuner.standing(job).best() is not None
    found, _ = pick(TuningDb(tmp_path), job.kernel.key, cases.LIMIT, FAKE)
    assert found is not None


def test_a_time_limit_ends_it(tmp_path, job):
    tuner = Tuner(
        cases.FakePool(cases.product()),
        TuningDb(tmp_path),
        limit=cases.LIMIT,
        target=cases.TARGET,
    )
    tuner.run([job], trials=None, budget_s=1e-6)
    assert not tuner.standing(job).trials and tuner.standing(job).default_s is not None


def test_a_new_driver_is_checked_once(tmp_path, job):
    _tune(tmp_path, cases.FakePool(cases.product()), [job], trials=8)
    db = TuningDb(tmp_path)
    found, _ = pick(db, job.kernel.key, cases.LIMIT, FAKE)
    assert pick(db, job.kernel.key, cases.LIMIT, ("fake", "2")) == (
        None,
        "not tuned on fake with driver 2",
    )
    good = cases.FakePool(cases.product(), driver="2")
    reverify(good, db, [(job, found)], limit=cases.LIMIT, tell=print)
    assert isinstance(pick(db, job.kernel.key, cases.LIMIT, ("fake", "2"))[0], Pick)
    bad = cases.FakePool(cases.product(), driver="3", wrong=lambda mod: mod.script() != bad.default)
    told = []
    reverify(bad, db, [(job, found)], limit=cases.LIMIT, tell=told.append)
    assert "right before, quarantined now" in told[0]
    none, why = pick(db, job.kernel.key, cases.LIMIT, ("fake", "3"))
    assert none is None and "1 quarantined" in why


@pytest.mark.nightly
def test_a_driver_that_miscompiles_crashes_and_hangs(tmp_path):
    """Real processes on a driver that is broken for vectors of two, four and eight lanes."""
    cases.needs_opencl()
    job = cases.job(cases.addition())
    told = []
    with Pool([cases.worker("-m", "faulty_worker", "--device", "local")], limit_s=6) as pool:
        tuner, _ = _tune(tmp_path, pool, [job], trials=32, tell=told.append)
        where = tuner.where
    standing = TuningDb(tmp_path).standings()[job.kernel.key, where]
    assert len(standing.trials) == 32
    how = {entry.get("how") for entry in TuningDb(tmp_path).records if entry["type"] == "trial"}
    assert {"ok", "crash", "timeout"} <= how
    assert standing.failed >= 2
    wrong = [dict(choice.decisions)["lanes0"][-1] for choice, _ in standing.quarantined()]
    assert wrong and set(wrong) == {8}
    best = standing.best()
    assert best is None or dict(best[0].decisions)["lanes0"][-1] in (1, 16)


def test_where_is_what_the_pool_says(tmp_path):
    pool = cases.FakePool(cases.product())
    tuner = Tuner(pool, TuningDb(tmp_path), limit=cases.LIMIT, target=cases.TARGET)
    assert pool.identity == Identity(device="fake", driver="1")
    assert tuner.where == Where(device="fake", driver="1", limits=cases.LIMIT.text)
