"""How long work shows itself: a bar with an estimate on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm import tqdm


class Progress:
    """Steps of known number with names; `step` starts the next one.

    The estimate weighs steps by what they usually take (`weights`), so that it is not fooled by
    many quick steps before a slow one.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._bar: tqdm | None = None
        self._weights: dict[str, float] = {}
        self._current: str | None = None
        self._started = 0.0

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._finish_step()
        if self._bar is not None:
            self._bar.close()

    def begin(self, weights: dict[str, float]) -> None:
        """Announce the steps: name -> usual share of the time, in any unit."""
        self._weights = weights
        if not self._quiet and sys.stderr.isatty():
            self._bar = tqdm(
                total=sum(weights.values()),
                bar_format="{desc:<22}|{bar}| {percentage:3.0f} % [{elapsed}<{remaining}]",
                leave=False,
            )

    def step(self, name: str, detail: str = "") -> None:
        """The work of `name` starts now."""
        self._finish_step()
        self._current, self._started = name, time.monotonic()
        if self._bar is not None:
            self._bar.set_description_str(f"{name} {detail}"[:22])

    def detail(self, text: str) -> None:
        """What of the current step is being done; shown on a terminal only."""
        if self._bar is not None:
            self._bar.set_description_str(f"{self._current} {text}"[:22])

    def note(self, message: str) -> None:
        """A line worth reading, above the bar."""
        if self._quiet:
            return
        if self._bar is not None:
            self._bar.write(message, file=sys.stderr)
        else:
            print(message, file=sys.stderr, flush=True)

    def _finish_step(self) -> None:
        if self._current is None:
            return
        seconds = time.monotonic() - self._started
        if self._bar is not None:
            self._bar.update(self._weights.get(self._current, 0.0))
        elif not self._quiet:
            print(f"  {self._current:<14} {seconds:6.1f} s", file=sys.stderr, flush=True)
        self._current = None
