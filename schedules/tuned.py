"""What tuning found, as a schedule rule: the first that a build with a database asks.

A record is used where it is verified for the device and driver at hand, or, for a device that is
not at hand, for the same limits of a target; where it beats the default schedule; and where its
choices still make the very kernel that was verified.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from tvm import s_tir, tirx
from tvm.s_tir.dlight.base import ScheduleRule
from tvm.target import Target

from schedules.limits import Limits
from schedules.search_space import space_of
from schedules.trials import scheduled_hash
from schedules.tuning_db import TuningDb
from schedules.tuning_records import Choice, Standing, Where, describe


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pick:
    """The schedule to use for a kernel."""

    choice: Choice
    scheduled: str  # hash of the kernel that was verified
    where: Where
    gain: float  # default's time over its time
    between: tuple[float, float] | None = None  # what the gain lies between, where that is known


@dataclasses.dataclass(frozen=True, kw_only=True)
class Use:
    """What a build did about one kernel."""

    key: str
    ops: tuple[str, ...]  # operators that the kernel computes
    tuned: bool
    why: str
    pick: Pick | None = None
    func: tirx.PrimFunc | None = dataclasses.field(default=None, compare=False)  # unscheduled

    def to_dict(self) -> dict[str, object]:
        """Plain data, for the manifest."""
        found: dict[str, object] = {
            "kernel": self.key,
            "operators": list(self.ops),
            "schedule": "tuned" if self.tuned else "default",
            "why": self.why,
        }
        if self.tuned and self.pick is not None:
            found |= {
                "device": self.pick.where.device,
                "driver": self.pick.where.driver,
                "gain": round(self.pick.gain, 3),
                "sketch": self.pick.choice.sketch,
                "choices": self.pick.choice.as_dict,
            }
            if self.pick.between is not None:
                found["gain_between"] = [round(end, 3) for end in self.pick.between]
        return found


def pick(
    db: TuningDb, key: str, limit: Limits, here: tuple[str, str] | None
) -> tuple[Pick | None, str]:
    """What to use for a kernel, or None; and why.

    Args:
        db: the database.
        key: of the kernel.
        limit: of the target.
        here: device and driver, where the target is at hand.
    """
    known = [
        standing
        for (one, where), standing in db.standings().items()
        if one == key and where.limits == limit.text
    ]
    if not known:
        return None, "not tuned for these limits"
    if here is not None:
        known = [s for s in known if (s.where.device, s.where.driver) == here]
        if not known:
            return None, f"not tuned on {here[0]} with driver {here[1]}"
    picks = [(gain, found) for s in known if (found := _pick_of(s)) and (gain := found.gain)]
    if not picks:
        bad = sum(len(standing.quarantined()) for standing in known)
        also = f"; {bad} quarantined" if bad else ""
        return None, f"the default is the best that was verified{also}"
    gain, best = max(picks, key=lambda row: row[0])
    return best, f"{gain_text(gain, best.between)} the default on {best.where.device}"


def gain_text(gain: float, between: tuple[float, float] | None) -> str:
    """As people read it: `1.18 x (1.12 to 1.25)`."""
    return f"{gain:.2f} x" + (f" ({between[0]:.2f} to {between[1]:.2f})" if between else "")


def wrong_default(db: TuningDb, key: str, limit: Limits, here: tuple[str, str]) -> str | None:
    """How the default schedule of a kernel was wrong here; None where it was not."""
    standing = db.standings().get((key, Where(device=here[0], driver=here[1], limits=limit.text)))
    if standing is None or standing.default_good:
        return None
    return standing.default_reason


def _pick_of(standing: Standing) -> Pick | None:
    best, gain, race = standing.best(), standing.gain, standing.race
    if best is None or not standing.is_better:
        return None
    if not standing.default_good or gain is None:
        gain, race = float("inf"), None
    between = (race.low, race.high) if race and race.low and race.high else None
    return Pick(choice=best[0], scheduled=best[2], where=standing.where, gain=gain, between=between)


def drawn(func: tirx.PrimFunc, found: Pick, limit: Limits) -> s_tir.Schedule | None:
    """The recorded schedule of `func`; None where it makes another kernel now."""
    space = space_of(func, limit)
    if space is None or found.choice.sketch not in space.names:
        return None
    sch = space.draw(found.choice.sketch, found.choice.as_dict)
    if sch is None or scheduled_hash(sch) != found.scheduled:
        return None
    return sch


class Tuned(ScheduleRule):
    """Answers for kernels that have a pick."""

    def __init__(self, picks: Mapping[str, tuple[Pick | None, str]], limit: Limits) -> None:
        """`picks`: kernel key -> what `pick` said."""
        self.picks = picks
        self.limit = limit
        self.uses: list[Use] = []

    def apply(
        self, func: tirx.PrimFunc, target: Target, _tunable: bool = False
    ) -> s_tir.Schedule | None:
        """The recorded schedule; None where there is none, or it makes another kernel now."""
        if target.kind.name != "opencl":
            return None
        key = describe("", func).key
        found, why = self.picks.get(key, (None, "not tuned"))
        sch = None if found is None else drawn(func, found, self.limit)
        if found is not None and sch is None:
            why = "its record is of another version of the schedules"
        ops = tuple(map(str, func.attrs.get("hetero.ops") or ()))
        self.uses.append(
            Use(key=key, ops=ops, tuned=sch is not None, why=why, pick=found, func=func)
        )
        return sch
