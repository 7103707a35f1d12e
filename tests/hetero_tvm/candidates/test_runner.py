import emitted

from hetero_tvm.candidates.pack import PROGRAM_FOLDER

HANGS = b"__kernel void main_kernel(__global float* a, __global float* b, __global float* c)\n"
HANGS += b"{ volatile int on = 1; while (on) { a[0] = a[0] + on; } }"
CRASHES = b"__kernel void main_kernel(__global float* a, __global float* b, __global float* c)\n"
CRASHES += b"{ *(__global volatile int*)(size_t)(a[0] * 0.0f) = 1; }"


def _lines(done):
    return done.stderr.strip().splitlines()


def test_a_machine_with_nothing_but_python(tmp_path, monkeypatch):
    """Wrong and crashing kernels cost themselves; what ran is not run again."""
    emitted.emit(tmp_path, monkeypatch, count=3)
    wrong = (tmp_path / PROGRAM_FOLDER / "kernels/k0_0.cl").read_bytes()
    emitted.change(tmp_path, "kernels/k0_0.cl", wrong.replace(b" + vload", b" - vload"))
    emitted.change(tmp_path, "kernels/k0_1.cl", CRASHES)
    done = emitted.run(tmp_path)
    assert done.returncode == 0, done.stderr
    found = emitted.results(tmp_path)["results"]
    assert found["k0_default"]["how"] == "ok" and found["k0_2"]["how"] == "ok"
    assert "wrong on" in found["k0_0"]["how"] and "seconds" not in found["k0_0"]
    assert found["k0_1"]["how"].startswith("crash: its process ended (signal")
    (raced,) = emitted.results(tmp_path)["races"].values()
    assert list(raced) == ["k0_2"] and raced["k0_2"]["low"] <= raced["k0_2"]["high"]
    again = emitted.run(tmp_path)
    assert again.returncode == 0 and len(_lines(again)) == 2  # what it is on, and where it wrote


def test_a_kernel_that_hangs_costs_its_time(tmp_path, monkeypatch):
    emitted.emit(tmp_path, monkeypatch, count=1)
    emitted.change(tmp_path, "kernels/k0_0.cl", HANGS)
    done = emitted.run(tmp_path, "--limit", "2")
    assert done.returncode == 0, done.stderr
    assert emitted.results(tmp_path)["results"]["k0_0"]["how"] == "timeout: no answer within 2 s"


def test_what_cannot_be_used_is_one_line(tmp_path, monkeypatch):
    emitted.emit(tmp_path, monkeypatch, count=1)

    def said(*flags):
        done = emitted.run(tmp_path, *flags)
        assert done.returncode == 2
        (line,) = _lines(done)
        return line

    (tmp_path / "other.json").write_text("{}")
    assert "holds other results than of these" in said("--results", "other.json")
    assert (tmp_path / "other.json").read_text() == "{}"
    root = tmp_path / PROGRAM_FOLDER
    kernel = root / "kernels/k0_0.cl"
    kernel.write_bytes(kernel.read_bytes()[:-1])
    assert "k0_0.cl: damaged; copy and unpack the tar again" in said()
    kernel.unlink()
    assert "k0_0.cl: missing; copy and unpack" in said()
    listing = root / "candidates.json"
    text = listing.read_text()
    listing.write_text(text[:100])
    assert "candidates.json: missing or damaged" in said()
    listing.write_text(text.replace('"format": 1', '"format": 99'))
    assert "made for another version" in said()


def test_candidates_of_another_device(tmp_path, monkeypatch):
    emitted.emit(tmp_path, monkeypatch, count=1)
    listing = tmp_path / PROGRAM_FOLDER / "candidates.json"
    only = '"only": {"device": "Adreno", "driver": "7"}'
    listing.write_text(listing.read_text().replace('"only": null', only))
    done = emitted.run(tmp_path)
    assert done.returncode == 2
    assert "these candidates are for Adreno with driver 7, this is " in done.stderr


def test_no_opencl(tmp_path, monkeypatch):
    emitted.emit(tmp_path, monkeypatch, count=1)
    done = emitted.run(tmp_path, "--device", "nobody")
    assert done.returncode == 3 and "no OpenCL device called nobody" in done.stderr
    listed = emitted.run(tmp_path, "--list")
    assert listed.returncode == 0 and listed.stdout.startswith("0: ")
    assert len(_lines(done)) == 1
