"""Text, Markdown and CSV of a measurement."""

import csv
import io

from hetero_tvm import bench_report

NOTHING = {"hottest_c": None, "cpu_mhz": None, "gpu_mhz": None, "power_w": None}
WARM = {"hottest_c": 51.6, "cpu_mhz": 2400.0, "gpu_mhz": 680.0, "power_w": 4.12}
TIMES = {"runs": 9, "mean": 2.5, "p50": 2.0, "p90": 4.0, "sd": 0.5, "min": 1.0, "max": 5.0}


def data(**more):
    return {
        "model": "m.onnx",
        "target": "host",
        "simulated": False,
        "machine": {"system": "Linux 6", "cpu": "Some CPU", "opencl": "Some GPU"},
        "length": None,
        "load_s": 1.25,
        "first_run_ms": 9.0,
        "warm_up_runs": 3,
        "times_ms": TIMES,
        "length_per_s": None,
        "llm": None,
        "peak_memory_bytes": 250e6,
        "artefact_bytes": 3e6,
        "thermal": {"loaded_s": 12.0, "start": NOTHING, "end": NOTHING},
        "minutes": [],
        **more,
    }


MINUTES = [
    {"at_s": 60.0, "times_ms": TIMES, **WARM},
    {"at_s": 120.0, "times_ms": {**TIMES, "p50": 3.0}, **WARM},
]


def test_text():
    said = bench_report.text(data())
    assert "p50 2.000, p90 4.000, sd 0.500" in said
    assert "500.00 runs/s" in said and "250 MB" in said
    assert "the system shows none; 12 s of load" in said
    said = bench_report.text(data(minutes=MINUTES, length_per_s=64000.0, simulated=True))
    assert "51.6" not in said and "52 °C, CPU 2400 MHz, GPU 680 MHz, 4.1 W" in said
    assert "64000.0 elements of length/s" in said and "simulated" in said


def test_markdown_has_rows_of_equal_width():
    for minutes in ([], MINUTES):
        tables = bench_report.markdown(data(minutes=minutes)).split("\n\n")
        assert len(tables) == (2 if minutes else 1)
        for table in tables:
            widths = {line.count("|") for line in table.splitlines()}
            assert len(widths) == 1


def test_csv_is_read_back():
    text = bench_report.comma_separated(data(minutes=MINUTES))
    everything, first, second = csv.DictReader(io.StringIO(text))
    assert (everything["at_s"], float(everything["p50_ms"])) == ("", 2.0)
    assert everything["hottest_c"] == "" and float(first["hottest_c"]) == 51.6
    assert float(second["p50_ms"]) == 3.0
