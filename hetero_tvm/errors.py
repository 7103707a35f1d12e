"""What a user can do wrong or be missing: the kinds of errors, each with its exit code and its id.

0 fine   1 a gate or comparison failed   2 bad input   3 environment   4 device   5 our bug

An id never changes and is never used again; `hetero-tvm explain ID` prints its entry in
`errors.toml`, where every id has one. A kind of its own is for what has causes or next steps that
its one line cannot hold; all else is raised as one of the five classes that the others derive from.
A class that declares no `id` has that of its base.
"""

from __future__ import annotations


class HeteroError(Exception):
    """One clear line for the user: where, what, and what to do instead."""

    exit_code = 5
    id = "HT5000"


class ComparisonFailed(HeteroError):
    """The numbers left the reference, or a gate its bound, by more than was stated."""

    exit_code = 1
    id = "HT1000"


class BadInput(HeteroError):
    """The user's model, flags or files cannot be used as they are."""

    exit_code = 2
    id = "HT2000"


class EnvironmentProblem(HeteroError):
    """Something that has to be installed is missing or unusable."""

    exit_code = 3
    id = "HT3000"


class DeviceFailure(HeteroError):
    """A device was found and then failed."""

    exit_code = 4
    id = "HT4000"


class NativeCrash(HeteroError):
    """A signal ended the process: a fault in the runtime, a driver, or a library."""

    id = "HT5001"


# The command line
class UsageError(BadInput):
    """A command line that cannot be parsed."""

    id = "HT2001"


class BadOutputPath(BadInput):
    """Nothing can be written where the result should go."""

    id = "HT2002"


# The ONNX model
class ModelUnreadable(BadInput):
    """A model's file is missing, damaged, or no ONNX."""

    id = "HT2101"


class UnsupportedModel(BadInput):
    """A node that cannot be imported."""

    id = "HT2102"


class WrongInputShapes(BadInput):
    """Shapes given for a model's inputs that they cannot have, or needed and not given."""

    id = "HT2103"


class OpenShapeError(BadInput):
    """The shape of a node's result cannot be known at compile time."""

    id = "HT2104"


class ShapeMismatchError(BadInput):
    """A node cannot take the shapes that it is given; running it would fail as well."""

    id = "HT2105"


class ImportDiffers(BadInput):
    """What was imported or built computes something else than ONNX Runtime."""

    id = "HT2106"


class ReferenceRefuses(BadInput):
    """ONNX Runtime cannot run the model, so nothing can be compared with it."""

    id = "HT2107"


class ModelTooLarge(BadInput):
    """A model beyond one of the importer's limits."""

    id = "HT2108"


class WeightsMissing(BadInput):
    """Weights beside a model's file are missing, too short, or out of its folder."""

    id = "HT2109"


class RegionRejected(BadInput):
    """The vendor's compiler did not take a region although our rules did."""

    id = "HT2110"


# The artefact
class OverMemoryLimit(BadInput):
    """No plan, or no room for an artefact, within a limit on devices' memory."""

    id = "HT2111"


class ArtefactUnreadable(BadInput):
    """An artefact is missing, damaged, or of another version."""

    id = "HT2201"


class WrongMachine(BadInput):
    """An artefact is built for another processor, system or SoC, or with other packages."""

    id = "HT2202"


class WrongKindOfModel(BadInput):
    """A language model where another model belongs, or the other way round."""

    id = "HT2203"


class AnotherModel(BadInput):
    """The ONNX model is not the one that the artefact was built of."""

    id = "HT2204"


class SignatureRefused(BadInput):
    """An artefact is not signed by who is trusted here."""

    id = "HT2205"


class SavedCacheRefused(BadInput):
    """The saved state of a sequence is not of this artefact, or damaged."""

    id = "HT2206"


# Inputs of a run
class WrongTensors(BadInput):
    """Tensors given to a model do not have its names, shapes or types."""

    id = "HT2301"


class LengthNotBuilt(BadInput):
    """No variant of the artefact takes inputs of that length."""

    id = "HT2302"


# Language models
class NotALanguageModel(BadInput):
    """A folder or file that is no language model with a cache as it is known here."""

    id = "HT2401"


class ContextFull(BadInput):
    """More tokens than the artefact's caches hold."""

    id = "HT2402"


class TokenizerUnusable(BadInput):
    """The tokenizer or chat template that came with a model is missing or wrong."""

    id = "HT2403"


class RequestRefused(BadInput):
    """A request to the server that cannot be answered."""

    id = "HT2404"


class BadLayerSettings(BadInput):
    """A file of settings per layer that `quantize` cannot use."""

    id = "HT2405"


# Targets, devices, keys, measurements
class TargetUnusable(BadInput):
    """A target that is not known, or whose spec lacks what was asked for."""

    id = "HT2501"


class BadAddress(BadInput):
    """An address of a device that is none."""

    id = "HT2601"


class NotDeployed(BadInput):
    """A model is not on the device, or in another version."""

    id = "HT2602"


class OpenToNetwork(BadInput):
    """What was asked for would open this machine or a model to a network without protection."""

    id = "HT2603"


class NotComparable(BadInput):
    """Two measurements that say nothing about each other."""

    id = "HT2701"


class KeyUnusable(BadInput):
    """A key or certificate that is missing, damaged or of another kind."""

    id = "HT2801"


class TuningDbUnusable(BadInput):
    """A tuning database that is missing, empty or damaged."""

    id = "HT2901"


class ResultsRefused(BadInput):
    """Results that are not of candidates that were emitted, or not as they were measured."""

    id = "HT2902"


# The environment
class MissingPackage(EnvironmentProblem):
    """A Python package that this verb needs is not installed."""

    id = "HT3001"


class CannotWrite(EnvironmentProblem):
    """A file could not be written: no space, no permission."""

    id = "HT3002"


class RuntimeUnusable(EnvironmentProblem):
    """The C++ runtime is not built, or not for the TVM that is installed."""

    id = "HT3003"


class NoCompiler(EnvironmentProblem):
    """A compiler or linker is missing, or failed."""

    id = "HT3004"


class VendorCompilerFailed(EnvironmentProblem):
    """The NPU's compiler crashed, was killed, or hung: it said nothing about the region."""

    id = "HT3005"


class OutputLost(EnvironmentProblem):
    """The result could not be written to stdout."""

    id = "HT3006"


class NoWheel(EnvironmentProblem):
    """A package has no wheel for the device's system."""

    id = "HT3007"


# The device
class NotReached(DeviceFailure):
    """A device, its server or its tracker does not answer."""

    id = "HT4001"


class DeviceLacks(DeviceFailure):
    """A device has not what a model needs."""

    id = "HT4002"


class RunFailed(DeviceFailure):
    """Loading or running an artefact failed on its device."""

    id = "HT4003"


class StorageFull(DeviceFailure):
    """A device's storage is full."""

    id = "HT4004"


class WrongNumbers(DeviceFailure):
    """A device computed wrong numbers."""

    id = "HT4005"


class TunedKernelWrong(DeviceFailure):
    """A tuned kernel fails on a driver that it was not proven on."""

    id = "HT4006"
