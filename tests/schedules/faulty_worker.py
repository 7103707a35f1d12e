"""A tuner's worker on a driver that is broken for some kernels, and says that these are fast.

float8    computes something else
float4    ends the process
float2    never ends
"""

import os
import sys
import time

from hetero_tvm import trial_worker
from schedules import host_memory, trials

_right = host_memory._completed
_plain_time = trials.Server.time
_tempting = [False]


def broken(source, target):
    source = _right(source, target)
    wrong = source.replace("+ vload8", "- vload8")
    _tempting[0] = wrong != source
    if "vload4" in source:
        os.abort()
    while "vload2" in source:
        time.sleep(1)
    return wrong


def tempting_time(server, path, at_least_s, slow_s, beside):
    answer = _plain_time(server, path, at_least_s, slow_s, None)
    if _tempting[0]:
        answer["seconds"] = [1e-9]
    return answer


if __name__ == "__main__":
    host_memory._completed = broken
    trials.Server.time = tempting_time
    sys.exit(trial_worker.main())
