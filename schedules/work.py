"""What costs are asked about: an operator, or a part of one, as numbers.

`relay_passes.op_work.Work` is one; this folder must not import it.
"""

from __future__ import annotations

from typing import Protocol


class Shape(Protocol):
    """What decides the time of a kernel that was written for it alone."""

    @property
    def kind(self) -> str: ...  # noqa: D102
    @property
    def macs(self) -> int: ...  # noqa: D102
    @property
    def bytes(self) -> int: ...  # noqa: D102
    @property
    def element_bytes(self) -> int: ...  # noqa: D102
    @property
    def rows(self) -> int: ...  # noqa: D102
    @property
    def depth(self) -> int: ...  # noqa: D102
    @property
    def columns(self) -> int: ...  # noqa: D102
    @property
    def reduces(self) -> bool: ...  # noqa: D102


class OpWork(Shape, Protocol):
    """The same, as a part of a program."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def weight_bytes(self) -> int: ...  # noqa: D102
    @property
    def cache_bytes(self) -> int: ...  # noqa: D102
    @property
    def score_bytes(self) -> int: ...  # noqa: D102
    @property
    def output_bytes(self) -> int: ...  # noqa: D102
    @property
    def fuses(self) -> bool: ...  # noqa: D102
