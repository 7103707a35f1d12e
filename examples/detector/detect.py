"""Find the lines of text in a picture with PP-OCRv6's detector, and draw boxes around them.

    python examples/detector/detect.py picture.jpg -o boxes.png

What is before and after the model is plain numpy, Pillow and SciPy; the model is one call.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from models import CACHE, fetch

import hetero_tvm
from hetero_tvm import report
from hetero_tvm.errors import HeteroError

SIDE = 640  # pixels of the square that the model sees
# As rapidocr sets them for this model (its config.yaml, `Det`).
PIXEL, BOX, GROWTH = 0.3, 0.5, 1.6  # probability of a pixel, mean of a box, how much boxes grow
LEAST_AREA = 16  # pixels; smaller spots are noise
LINES = ("hetero_tvm", "finds lines of text", "on GPU and NPU")


def page() -> Image.Image:
    """A picture to try it on."""
    picture = Image.new("RGB", (900, 600), "white")
    draw = ImageDraw.Draw(picture)
    for number, line in enumerate(LINES):
        font = ImageFont.load_default(size=52 - 8 * number)
        draw.text((70, 90 + 150 * number), line, fill="black", font=font)
    return picture


def to_input(picture: Image.Image) -> tuple[np.ndarray, float]:
    """[1, 3, SIDE, SIDE] in -1 … 1, filled up with white; pixels of it for one of the picture."""
    scale = SIDE / max(picture.size)
    small = picture.convert("RGB").resize([max(1, round(side * scale)) for side in picture.size])
    square = Image.new("RGB", (SIDE, SIDE), "white")
    square.paste(small, (0, 0))
    pixels = np.asarray(square, np.float32)[..., ::-1] / 255.0  # BGR, as the model was trained
    return np.ascontiguousarray(((pixels - 0.5) / 0.5).transpose(2, 0, 1)[None]), scale


def boxes(probability: np.ndarray) -> list[tuple[int, int, int, int]]:
    """(left, top, right, bottom) around connected pixels of [H, W] that are text, from the top."""
    labels, _ = ndimage.label(probability > PIXEL)
    found = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), 1):
        inside = labels[rows, columns] == number
        if inside.sum() < LEAST_AREA or probability[rows, columns][inside].mean() < BOX:
            continue
        height, width = rows.stop - rows.start, columns.stop - columns.start
        # The model marks shrunken lines; a box grows by its area over its circumference.
        grow = round(GROWTH * height * width / (2 * (height + width)))
        found.append(
            (
                max(0, columns.start - grow),
                max(0, rows.start - grow),
                min(probability.shape[1], columns.stop + grow),
                min(probability.shape[0], rows.stop + grow),
            )
        )
    return sorted(found, key=lambda box: (box[1], box[0]))


def detect(model: hetero_tvm.loader.Model, picture: Image.Image) -> list[tuple[int, ...]]:
    """Boxes in pixels of the picture."""
    tensor, scale = to_input(picture)
    (probability,) = model(x=tensor).values()
    return [tuple(round(side / scale) for side in box) for box in boxes(probability[0, 0])]


def main() -> int:
    """Build at the first run, detect, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", nargs="?", type=Path, help="a page of its own without one")
    parser.add_argument("-o", "--output", type=Path, default=Path("boxes.png"))
    parser.add_argument("--target", default="host")
    parser.add_argument("--report", type=Path, metavar="FILE.html", help="what runs where, and why")
    args = parser.parse_args()
    try:
        picture = Image.open(args.picture).convert("RGB") if args.picture else page()
    except OSError as error:
        print(f"{args.picture}: {error}", file=sys.stderr)
        return 2
    try:
        artefact = CACHE.parent / f"ocr-detector-{args.target}-{SIDE}.so"
        if not artefact.is_file():
            print(f"building {artefact.name} …", file=sys.stderr)
            shape = {"x": (1, 3, SIDE, SIDE)}
            model_file = fetch("ocr-detector")
            hetero_tvm.build(model_file, target=args.target, inputs=shape, output=artefact)
        if args.report is not None:
            report.write(artefact, args.report)
        found = detect(hetero_tvm.load(artefact), picture)
    except HeteroError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    draw = ImageDraw.Draw(picture)
    for box in found:
        print(*box)
        draw.rectangle(box, outline="red", width=3)
    picture.save(args.output)
    print(f"{len(found)} lines of text, drawn into {args.output}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
