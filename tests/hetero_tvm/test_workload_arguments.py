"""Flags that `bench` and `profile` share."""

import argparse

from hetero_tvm import workload_arguments


def test_defaults_leave_the_choice_to_the_artefact():
    parser = argparse.ArgumentParser()
    workload_arguments.add(parser)
    args = parser.parse_args(["m.so", "--inputs", "a=a.npy", "--inputs", "b.npz"])
    assert (args.inputs, args.seed) == (["a=a.npy", "b.npz"], 0)
    assert (args.length, args.device, args.prompt) == (None, None, None)
