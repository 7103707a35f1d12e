"""Tuning on a machine that cannot be reached: candidates in a tar, results back in a file.

pack      kernels, inputs' seeds, expected results and the runner -> candidates.tar
runner    on the other machine: Python and OpenCL, nothing of ours -> results.json
absorb    results.json -> the database
"""
