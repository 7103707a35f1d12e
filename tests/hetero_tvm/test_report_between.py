"""What people read about a range of lengths."""

from hetero_tvm.between import Between, Chosen, Span
from hetero_tvm.report_between import table
from relay_passes.plan import Plan


def test_every_way_has_its_time():
    text = table(
        Chosen(
            span=Span(64, 128),
            plans={
                64: Plan(ops=(), predicted_us=1000.0),
                128: Plan(ops=(), predicted_us=2000.0),
            },
            between=(
                Between(
                    length=80,
                    padding_us=2000.0,
                    chunking_us=1900.0,
                    split_us=1300.0,
                    kind="activation",
                    way="64 + 16 -> 64",
                    built=True,
                ),
                Between(
                    length=112,
                    padding_us=2000.0,
                    chunking_us=None,
                    split_us=1900.0,
                    kind="gpu",
                    way="112 -> 128",
                ),
            ),
            npu_rows={80: (64,), 112: (64,)},
            gain=0.1,
        )
    )
    rows = [line.split() for line in text.splitlines()]
    assert rows[1] == ["64", "1.000", "ms", "standard"]
    assert " ".join(rows[2]) == "80 1.300 ms 2.000 ms 1.900 ms 31.6% activation split, built"
    assert " ".join(rows[3]) == "112 1.900 ms 2.000 ms - 5.0% GPU alone; instead 112 -> 128"
    assert rows[4][0] == "128"
    assert "Variants for 64..128: 64, 80, 128." in text
