"""Kernels of every family that has sketches: names of these sketches, and how to make kernels."""

import tuning_cases as cases
from tvm import relax

FAMILIES = {
    "product": ({"whole", "stretched"}, lambda: [cases.product()]),
    "softmax": (
        {"rows"},
        lambda: cases.unscheduled(lambda x: relax.op.nn.softmax(x), ((6, 37), "float32")),
    ),
    "column_sum": (
        {"columns"},
        lambda: cases.unscheduled(lambda x: relax.op.sum(x, 0), ((9, 48), "float32")),
    ),
    "addition": ({"flat", "kept"}, lambda: [cases.addition()]),
}
