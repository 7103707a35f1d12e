"""The engine: queues, waits, shared memory, a renderer; every case small enough for a pencil."""

import dataclasses

import pytest

from hetero_tvm.simulator import Machine, Renderer, Wait, Work, simulate

IDEAL = Machine(
    two_devices_gbps=60.0,
    launch_us=0.0,
    drained_us=0.0,
    region_us=0.0,
    seen_us={"cpu": 0.0, "gpu": 0.0, "npu": 0.0},
)
REAL = Machine(
    two_devices_gbps=60.0,
    launch_us=10.0,
    drained_us=70.0,
    region_us=20.0,
    seen_us={"cpu": 0.0, "gpu": 3.0, "npu": 4.0},
)


def gpu(us, name="g", **more):
    return Work(name=name, device="gpu", us=us, **more)


def npu(us, name="n", **more):
    return Work(name=name, device="npu", us=us, **more)


def times(run, device, kind="work"):
    return [
        (span.start_us, span.end_us)
        for span in run.spans
        if (span.device, span.kind) == (device, kind)
    ]


def test_devices_work_at_the_same_time_and_the_longer_counts():
    run = simulate([npu(30), gpu(50), Wait("gpu"), Wait("npu")], IDEAL)
    assert run.total_us == pytest.approx(50)
    assert run.busy_us == {"cpu": 0, "gpu": pytest.approx(50), "npu": pytest.approx(30)}
    assert run.waits == 2


def test_gpu_queue_is_in_order_and_hides_submission():
    run = simulate([gpu(100), gpu(100), gpu(100), Wait("gpu")], REAL)
    # Only the first kernel finds the queue drained; the others lie there before it ends.
    assert times(run, "gpu") == [(70, 170), (170, 270), (270, 370)]
    assert run.total_us == pytest.approx(370 + 3)
    assert times(run, "cpu", "submit") == [(0, 10), (10, 20), (20, 30)]


def test_gpu_that_waits_for_the_npu_begins_on_a_drained_queue():
    run = simulate([npu(40, opens_region=True), Wait("npu"), gpu(5), Wait("gpu")], REAL)
    # 20 to submit, 40 of work, 4 until it is seen, 70 on a drained queue.
    assert times(run, "npu") == [(20, 60)]
    assert times(run, "gpu") == [(134, 139)]
    assert [(s.source, s.target) for s in run.signals] == [("npu", "cpu"), ("gpu", "cpu")]


def test_gpu_still_at_work_does_not_drain():
    run = simulate([npu(40, opens_region=True), gpu(200), Wait("npu"), gpu(5), Wait("gpu")], REAL)
    assert times(run, "gpu") == [(70, 270), (270, 275)]


def test_npu_worker_waits_without_the_host():
    steps = [gpu(50), npu(10, after_gpu=True, opens_region=True), gpu(50), Wait("npu")]
    run = simulate(steps, IDEAL)
    assert times(run, "npu") == [(50, 60)]
    assert times(run, "gpu") == [(0, 50), (50, 100)]
    assert times(run, "npu", "wait") == [(0, 50)]
    assert run.waits == 2


def test_a_job_before_what_is_late_waits_for_the_rest_alone():
    waiting = npu(10, after_gpu=True, before_late=True)
    run = simulate([gpu(20), gpu(30, late=True), waiting, Wait("npu")], IDEAL)
    assert times(run, "npu") == [(20, 30)]
    assert times(run, "gpu") == [(0, 20), (20, 50)]
    in_pieces = [gpu(20), gpu(15, late=True), gpu(15, late=True), waiting, Wait("npu")]
    assert times(simulate(in_pieces, IDEAL), "npu") == [(20, 30)]
    of_before = [gpu(20, late=True), gpu(30), waiting, Wait("npu")]
    assert times(simulate(of_before, IDEAL), "npu") == [(50, 60)]


def test_a_job_behind_a_waiting_one_waits_too():
    run = simulate([gpu(50), npu(10, after_gpu=True), npu(7), Wait("npu")], IDEAL)
    assert times(run, "npu") == [(50, 60), (60, 67)]


@pytest.mark.parametrize(
    ("gpu_gb", "npu_gb", "ends"),
    [
        # Bytes are in thousands: 4000 in 100 us are 40 GB/s.
        pytest.param(2_000, 1_000, (100, 100), id="enough_for_both"),
        pytest.param(4_000, 4_000, (400 / 3, 400 / 3), id="half_each"),
        pytest.param(4_500, 2_000, (112.5, 100), id="the_rest_after_the_smaller_wish"),
    ],
)
def test_memory_is_shared(gpu_gb, npu_gb, ends):
    steps = [npu(100, nbytes=npu_gb * 1e3), gpu(100, nbytes=gpu_gb * 1e3), Wait("gpu"), Wait("npu")]
    run = simulate(steps, IDEAL)
    found = times(run, "gpu")[0][1], times(run, "npu")[0][1]
    if gpu_gb == 4_500:  # 40 GB/s beside the NPU for 100 us, then 45
        expected = 100 + (4_500 - 4_000) / 45
        assert found == (pytest.approx(expected), pytest.approx(100))
    else:
        assert found == (pytest.approx(ends[0]), pytest.approx(ends[1]))
    assert run.nbytes == pytest.approx((gpu_gb + npu_gb) * 1e3)


def test_speed_returns_when_the_other_one_ends():
    steps = [npu(10, nbytes=4e5), gpu(100, nbytes=4e6), Wait("gpu"), Wait("npu")]
    run = simulate(steps, IDEAL)
    # Both want 40 of 60 GB/s: 3/4 of their speed until the NPU ends at 10 / (3/4).
    assert times(run, "npu") == [(0, pytest.approx(40 / 3))]
    assert run.total_us == pytest.approx(40 / 3 + 90)


def test_devices_on_the_same_cores_slow_each_other_down():
    soc = dataclasses.replace(IDEAL, both_rate={"gpu": 0.5, "npu": 0.5})
    run = simulate([npu(10), gpu(10), Wait("gpu"), Wait("npu")], soc)
    assert run.total_us == pytest.approx(20)
    assert simulate([gpu(10), Wait("gpu")], soc).total_us == pytest.approx(10)


def test_cpu_work_holds_the_host():
    run = simulate([Work(name="c", device="cpu", us=25), gpu(5), Wait("gpu")], IDEAL)
    assert times(run, "gpu") == [(25, 30)]


def test_renderer_takes_its_turn():
    renderer = Renderer(frames_per_second=1000, frame_us=200)  # one each 1000 us
    run = simulate([*[gpu(100)] * 20, Wait("gpu")], IDEAL, renderer=renderer)
    assert run.frames is not None
    # All twenty kernels lie before the second frame, which is due at 1000.
    assert run.frames.missed == 1
    assert run.frames.worst_us == pytest.approx(200 + 2000 - 1000)
    assert run.total_us == pytest.approx(2200)


def test_a_bound_on_stretches_keeps_frames_in_time():
    renderer = Renderer(frames_per_second=1000, frame_us=200)
    steps = [*[gpu(100)] * 20, Wait("gpu")]
    run = simulate(steps, IDEAL, renderer=renderer, stretch_us=300)
    assert run.frames is not None
    assert run.frames.missed == 0
    assert run.frames.worst_us <= 300 + 200 + 1e-6
    assert run.total_us == pytest.approx(20 * 100 + 3 * 200)


def test_same_steps_same_run():
    steps = [npu(13, nbytes=5e5, opens_region=True), gpu(17, nbytes=7e5), Wait("npu"), gpu(3)]
    assert simulate(steps, REAL) == simulate(steps, REAL)
