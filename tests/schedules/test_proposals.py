import pytest
import tuning_cases as cases
from attention_cases import attention

from schedules import kernel_search
from schedules.attention import prefill_kernel
from schedules.proposals import iterations, propose
from schedules.tuning_db import TuningDb
from schedules.tuning_records import Where, kernel_record, record

pytest.importorskip("xgboost")
WHERE = Where(device="Adreno", driver="7", limits=cases.LIMIT.text)


@pytest.fixture(autouse=True)
def small_populations(monkeypatch):
    monkeypatch.setattr(kernel_search, "_POPULATION", 10)
    monkeypatch.setattr(kernel_search, "_FRESH", 8)
    monkeypatch.setattr(kernel_search, "_GENERATIONS", 1)


def _propose(folder, jobs, count):
    common = {"limit": cases.LIMIT, "target": cases.TARGET, "seed": 1}
    return propose(jobs, TuningDb(folder), WHERE, count=count, **common)


def test_iterations():
    assert iterations(cases.addition(16, 64)) == 16 * 64
    assert iterations(cases.product(24, 40, 64)) >= 24 * 40 * 64
    case = attention(rows=9)
    half_full = (case.max_context - case.rows) // 2 + case.rows
    dims = case.head_dim + case.value_dim
    wanted = case.batch * case.q_heads * case.rows * half_full * dims
    assert iterations(prefill_kernel(case, cases.GPU)) == wanted


def test_the_default_first_and_nothing_twice(tmp_path):
    job = cases.job(cases.product())
    (found,) = _propose(tmp_path, [job], 20)
    assert found.job is job and len(found.candidates) == 20
    assert len({candidate.scheduled for candidate in found.candidates}) == 20
    (again,) = _propose(tmp_path, [job], 20)
    assert [c.choice for c in again.candidates] == [c.choice for c in found.candidates]


def test_another_round_goes_on(tmp_path):
    job = cases.job(cases.product())
    (first,) = _propose(tmp_path, [job], 10)
    key = job.kernel.key
    records = [kernel_record(job.kernel), record("default", key, WHERE, seconds=1e-3, good=True)]
    records[-1]["reason"] = ""
    for number, candidate in enumerate(first.candidates):
        seconds = None if number == 3 else 1e-3 / (1 + number)
        how = "ok" if seconds else "crash"
        records.append(
            record("trial", key, WHERE, candidate.choice, seconds=seconds, how=how, error="")
        )
    TuningDb(tmp_path).append(records)
    (second,) = _propose(tmp_path, [job], 10)
    known = {candidate.choice for candidate in first.candidates}
    assert not known & {candidate.choice for candidate in second.candidates}


def test_the_heavier_kernel_has_more(tmp_path):
    heavy, light = cases.job(cases.product(64), calls=20), cases.job(cases.addition())
    shares = {p.job.kernel.key: len(p.candidates) for p in _propose(tmp_path, [light, heavy], 20)}
    assert shares[heavy.kernel.key] >= 16


def test_an_end_of_what_there_is(tmp_path):
    """A tiny space is proposed once, and no more."""
    job = cases.job(cases.addition(1, 2))
    (found,) = _propose(tmp_path, [job], 500)
    assert 0 < len(found.candidates) < 500
