"""What is asked about fits what is asked: the program's own works, and records of kernels."""

import dataclasses
import inspect

from relay_passes.op_work import Work
from schedules.gpu_model import Record
from schedules.work import OpWork, Shape


def asked_of(protocol):
    return {
        name
        for kind in protocol.__mro__
        for name, value in vars(kind).items()
        if isinstance(inspect.getattr_static(kind, name), property) and value is not None
    }


def test_a_programs_work_answers_everything():
    assert asked_of(Shape) < asked_of(OpWork)
    assert asked_of(OpWork) == {field.name for field in dataclasses.fields(Work)}


def test_a_record_answers_what_kernels_are_learnt_from():
    assert asked_of(Shape) <= {field.name for field in dataclasses.fields(Record)}
