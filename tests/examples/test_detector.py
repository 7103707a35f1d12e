"""The detector finds the lines that were drawn, and nothing else."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PIL", reason="pip install -r examples/detector/requirements.txt")
pytest.importorskip("scipy", reason="pip install -r examples/detector/requirements.txt")
SCRIPT = Path(__file__).parents[2] / "examples" / "detector" / "detect.py"


@pytest.fixture(scope="module")
def detector():
    spec = importlib.util.spec_from_file_location("detect_example", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_boxes_surround_what_is_likely(detector):
    probability = np.zeros((100, 200), np.float32)
    probability[20:30, 40:120] = 0.9
    probability[60:64, 10:50] = 0.4  # not sure enough
    probability[80:82, 100:102] = 0.9  # a spot
    ((left, top, right, bottom),) = detector.boxes(probability)
    assert left < 40 and right > 120 and top < 20 and bottom > 30
    assert right - left < 110 and bottom - top < 30


def test_a_box_stays_in_the_picture(detector):
    probability = np.ones((32, 64), np.float32)
    assert detector.boxes(probability) == [(0, 0, 64, 32)]


def test_a_picture_becomes_the_models_input(detector):
    from PIL import Image

    tensor, scale = detector.to_input(Image.new("RGB", (1280, 320), (255, 0, 0)))
    assert tensor.shape == (1, 3, 640, 640) and scale == 0.5
    assert tensor[0, :, 10, 10].tolist() == [-1.0, -1.0, 1.0]  # BGR
    assert tensor[0, :, 300, 10].tolist() == [1.0, 1.0, 1.0]  # filled up with white


def _drawn(detector):
    """Where `page` has ink: one box for each of its lines."""
    ink = np.asarray(detector.page().convert("L")) < 128
    found = []
    for number in range(len(detector.LINES)):
        rows = slice(60 + 150 * number, 210 + 150 * number)
        y, x = np.nonzero(ink[rows])
        found.append((x.min(), y.min() + rows.start, x.max() + 1, y.max() + 1 + rows.start))
    return found


def _overlap(a, b):
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    both = max(0, wide) * max(0, high)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return both / (sum(areas) - both)


@pytest.mark.nightly
def test_finds_every_line_of_its_own_page(detector, tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "-o", str(tmp_path / "boxes.png")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert len(found) == len(detector.LINES)
    for box, drawn in zip(found, _drawn(detector), strict=True):
        assert _overlap(box, drawn) > 0.5, (box, drawn)
    from PIL import Image

    assert Image.open(tmp_path / "boxes.png").size == detector.page().size


def test_a_picture_that_is_none_is_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path / "none.jpg")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "No such file" in done.stderr
