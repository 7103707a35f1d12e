"""Ends a text where one of some strings begins, however it is cut into pieces."""

from __future__ import annotations

from collections.abc import Sequence

from hetero_tvm.errors import BadInput


class StopStrings:
    """Lets pieces of a text through, but for what may be the beginning of a stop string."""

    def __init__(self, stops: Sequence[str]) -> None:
        """Raises BadInput where a stop string is empty."""
        if "" in stops:
            raise BadInput("a stop string is empty; leave it out")
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def push(self, piece: str) -> str:
        """What can be shown of the text so far; nothing after a stop string."""
        if self.stopped:
            return ""
        text = self._held + piece
        found = [at for at in map(text.find, self._stops) if at >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """The rest, if nothing stopped it."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` are the beginning of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
