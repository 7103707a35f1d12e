"""A tuner's worker whose device takes a second and a half longer for every trial."""

import sys
import time

from hetero_tvm import trial_worker
from schedules import trials

_time = trials.Server.time


def slow(server, *args, **options):
    time.sleep(1.5)
    return _time(server, *args, **options)


if __name__ == "__main__":
    trials.Server.time = slow
    sys.exit(trial_worker.main())
