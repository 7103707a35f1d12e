"""What a user can do wrong or be missing, each with the exit code that every verb documents.

0 fine   1 a gate or comparison failed   2 bad input   3 environment   4 device   5 our bug
"""

from __future__ import annotations


class HeteroError(Exception):
    """One clear line for the user: where, what, and what to do instead."""

    exit_code = 5


class ComparisonFailed(HeteroError):
    """The numbers left the reference by more than the stated tolerance."""

    exit_code = 1


class BadInput(HeteroError):
    """The user's model, flags or files cannot be used as they are."""

    exit_code = 2


class EnvironmentProblem(HeteroError):
    """Something that has to be installed is missing or unusable."""

    exit_code = 3


class DeviceFailure(HeteroError):
    """A device was found and then failed."""

    exit_code = 4
