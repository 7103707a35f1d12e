"""One artefact for several lengths of a free dimension: a whole function for each.

    main, kernels, regions at length 32        main_32, v32_kernel.., v32_npu_region_0..
    main, kernels, regions at length 64    ▸   main_64, v64_kernel.., v64_npu_region_0..
                                               equal kernels, regions and weights once

The pipeline runs for each length as if it were the only one, up to code generation: so every
variant has its own plan, NPU regions and kernels, all of them static. Then they are put into one
module, which is compiled once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Mapping

import numpy as np
import onnx
from tvm import IRModule, relax, tirx
from tvm.ir import GenericConst, GlobalVar
from tvm.relax.expr_functor import PyExprMutator, mutator

from hetero_tvm import bundle, compiler, fallback, length_proof, memory
from hetero_tvm.between import Span, choose_for
from hetero_tvm.build_state import State
from hetero_tvm.bundle import Variant
from hetero_tvm.compiler import BuildResult
from hetero_tvm.config import BuildConfig
from hetero_tvm.memory_forecast import PlanMemory
from hetero_tvm.npu_compiler import CompiledRegion
from hetero_tvm.placing import memory_of
from hetero_tvm.progress import Progress
from hetero_tvm.weights import WeightStore
from relay_passes.constants import values_of
from schedules.tuned import Use

_PROOF = "lengths"  # the step that proves padding and chunking
_PROOF_WEIGHT = 3.0
_NO_FILL: Mapping[str, float] = {}


def build(
    configs: Mapping[int, BuildConfig],
    *,
    longer: BuildConfig,
    fill: Mapping[str, float] = _NO_FILL,
    progress: Progress | None = None,
) -> BuildResult:
    """Compile one artefact with a variant for each length.

    Args:
        configs: length -> the build at that length; they differ in `inputs` only.
        longer: the same at some other length, from which it is seen where the length shows.
        fill: input -> what it is filled up with where padding is used, 0 where it is not named.
        progress: shown to the user.

    Raises:
        BadInput, EnvironmentProblem: see `hetero_tvm.errors`.
    """
    progress = progress or Progress(quiet=True)
    configs = {length: with_shared_weights(configs[length]) for length in sorted(configs)}
    last = max(configs)
    config = configs[last]
    costs = compiler.prepare(config, progress)
    border = length_proof.border(config.model, config.inputs, longer.inputs)
    values = length_proof.checked_fill(fill, border)
    each = [phase for phase in compiler.phases_of(config) if not phase.once]
    together = [phase for phase in compiler.phases_of(config) if phase.once]
    weights = {f"{phase.name} {n}": phase.weight for n in configs for phase in each}
    if config.output is not None:
        weights |= {phase.name: phase.weight * len(configs) for phase in together}
        weights |= {_PROOF: _PROOF_WEIGHT, "link": compiler.LINK_WEIGHT}
    progress.begin(weights)
    states: dict[int, State] = {}
    seconds: dict[str, float] = {}
    merger = Merger(sole=len(configs) == 1)
    for length, one in configs.items():
        state, spent = compiler.run_phases(one, costs, each, progress, step=f"{{}} {length}")
        seconds = compiler.summed(seconds, spent)
        if config.output is not None:
            state = merger.add(length, state)
        states[length] = state
    manifest, rules = None, None
    final = states[last]
    assert final.model is not None and final.plan is not None
    if config.output is not None:
        progress.step(_PROOF)
        clock = time.perf_counter()
        if config.check:
            ranges = final.model.ranges
            rules = length_proof.prove(config.model, ranges, border.axes, list(configs), values)
        else:
            rules = length_proof.unproven(border.axes, values, "not proven: built with --no-check")
        seconds[_PROOF] = time.perf_counter() - clock
        merged = merger.state(states, of=last)
        merged, spent = compiler.run_phases(config, costs, together, progress, start=merged)
        seconds = compiler.summed(seconds, spent)
        progress.step("link")
        clock = time.perf_counter()
        manifest = compiler.write_artefact(
            config.output,
            merged,
            variants=tuple(variant_of(n, s, merger.sole) for n, s in states.items()),
            lengths=rules,
        )
        seconds["link"] = time.perf_counter() - clock
    return dataclasses.replace(
        result_of(config, states, seconds, of=last, manifest=manifest), lengths=rules
    )


def build_span(
    span: Span,
    config_at: Callable[[int], BuildConfig],
    *,
    fill: Mapping[str, float] = _NO_FILL,
    progress: Progress | None = None,
) -> BuildResult:
    """Compile one artefact for all lengths of `span`; which variants it has is chosen.

    Args:
        span: the lengths.
        config_at: length -> the build at that length.
        fill: as for `build`.
        progress: shown to the user.

    Raises:
        BadInput, EnvironmentProblem: as `build`, and as `between.choose_for`.
    """
    progress = progress or Progress(quiet=True)
    chosen = choose_for(span, config_at, fill=fill, progress=progress)
    configs = {
        length: dataclasses.replace(
            config_at(length), npu_rows=chosen.rows_at(length), reprofile=False
        )
        for length in chosen.built
    }
    result = build(configs, longer=config_at(span.last + 1), fill=fill, progress=progress)
    return dataclasses.replace(result, chosen=chosen)


def result_of(
    config: BuildConfig,
    states: Mapping[int, State],
    seconds: Mapping[str, float],
    *,
    of: int,
    manifest: bundle.Manifest | None,
) -> BuildResult:
    """What a build of several functions made; the plan and names told are those of length `of`."""
    final = states[of]
    assert final.model is not None and final.plan is not None
    return BuildResult(
        path=config.output,
        target=final.spec.name,
        plan=final.plan,
        manifest=manifest,
        node_of=dict(final.model.node_of),
        seconds=dict(seconds),
        peak_memory_bytes=max(
            memory.peak_bytes(), *(state.npu_compiler_bytes for state in states.values())
        ),
        variants={length: state.plan for length, state in states.items() if state.plan},
        kernels=kernels_of(states),
        memory=_most_memory(states) if config.output is None else None,
    )


def _most_memory(states: Mapping[int, State]) -> PlanMemory:
    """Of the function that needs most while it runs; equal weights are there once."""
    return max(map(memory_of, states.values()), key=lambda need: need.activations)


def with_shared_weights(config: BuildConfig) -> BuildConfig:
    """`config` for one of several lengths."""
    if config.share_npu_weights is not None:
        return config
    # Of several targets each has a binary of its own, in which lengths and targets share pieces.
    share = config.os is not None and not config.more_targets
    return dataclasses.replace(config, share_npu_weights=share)


def kernels_of(states: Mapping[int, State]) -> tuple[Use, ...]:
    """What a database of tuned kernels did for any of them, each kernel once."""
    return tuple({use.key: use for state in states.values() for use in state.kernels}.values())


def function_name(length: int, sole: bool) -> str:
    """What the function for `length` is called; `sole`: it is the only one."""
    return "main" if sole else f"main_{length}"


def variant_of(length: int, state: State, sole: bool) -> Variant:
    """What the manifest says of one function; `sole`: it is the only one."""
    assert state.model is not None and state.plan is not None and state.cut is not None
    return Variant(
        length=length,
        function=function_name(length, sole),
        inputs=state.model.inputs,
        outputs=state.model.outputs,
        output_axes=state.cut.output_axes,
        plan=state.plan.to_dict(),
        npu_regions=len(state.compiled),
    )


class ConstantPool:
    """Equal constants are one object: what is in the module twice is in the artefact once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, tuple[int, ...], bytes], GenericConst] = {}

    def shared(self, constant: GenericConst) -> GenericConst:
        """The first constant with these bytes, type and shape."""
        array = np.ascontiguousarray(values_of(constant))
        digest = hashlib.sha256(array.data).digest()
        # The type by its own name: numpy has no bfloat16.
        key = (str(constant.value.dtype), tuple(constant.value.shape), digest)
        return self._known.setdefault(key, constant)


class Merger:
    """Functions of all lengths in one module, under names of their own."""

    def __init__(self, store: WeightStore | None = None, *, sole: bool = False) -> None:
        """`store` takes the large constants over; None leaves them in the module.

        `sole`: there will be one function, which keeps its name.
        """
        self.store = store
        self.sole = sole
        self.builder = relax.BlockBuilder()
        self.pool = ConstantPool()
        self.names: dict[str, GlobalVar] = {}
        self.mains: dict[str, relax.Function] = {}
        self.regions: dict[object, str] = {}  # what a region is -> its symbol

    def add(self, length: int, state: State) -> State:
        """Take over the functions of `state`; the state without them, its regions renamed."""
        prefix = "" if self.sole else f"v{length}_"
        kernels: dict[GlobalVar, GlobalVar] = {}
        for var, func in state.mod.functions.items():
            if isinstance(func, tirx.PrimFunc):
                # Without its own name an equal kernel of another length is the same kernel.
                bare = func.without_attr("global_symbol") if "global_symbol" in func.attrs else func
                kernels[var] = self.builder.add_func(bare, f"{prefix}{var.name_hint}")
        symbols = {
            region.symbol: self.regions.setdefault(_content(region), f"{prefix}{region.symbol}")
            for region in state.compiled
        }
        renamed = _Renamer(self.builder.get(), kernels, symbols, self.pool)
        for var, func in state.mod.functions.items():
            if isinstance(func, relax.Function):
                assert var.name_hint == "main", f"{var.name_hint}: a second function"
                name = function_name(length, self.sole)
                if self.store is not None and name not in self.store.of_function:
                    func = self.store.lift(name, func)
                self.mains[name] = renamed.visit_expr(func).with_attr("global_symbol", name)
        compiled = tuple(
            dataclasses.replace(region, symbol=symbols[region.symbol]) for region in state.compiled
        )
        assert state.model is not None and state.cut is not None
        # What holds the weights of this length goes, or the memory would grow with every length.
        return dataclasses.replace(
            state,
            mod=IRModule(),
            model=dataclasses.replace(state.model, mod=IRModule(), onnx_model=onnx.ModelProto()),
            cut=dataclasses.replace(state.cut, mod=IRModule()),
            regions=(),
            compiled=compiled,
            whole=tuple(
                fallback.named(whole, function_name(length, self.sole)) for whole in state.whole
            ),
        )

    def state(self, states: Mapping[int, State], *, of: int) -> State:
        """All functions that were added, ready for code generation.

        Args:
            states: what `add` returned for each length.
            of: the one that says what is not of a function: target, configuration, inputs.
        """
        return dataclasses.replace(
            states[of],
            done=frozenset(),  # code is generated for all of them together
            mod=self.module(),
            compiled=tuple(
                {
                    region.symbol: region for state in states.values() for region in state.compiled
                }.values()
            ),
            whole=tuple(whole for state in states.values() for whole in state.whole),
            function_plans={
                function_name(length, self.sole): state.plan
                for length, state in states.items()
                if state.plan is not None
            },
            function_records={
                function_name(length, self.sole): state.record
                for length, state in states.items()
                if state.record is not None
            },
            kernels=kernels_of(states),
        )

    def module(self) -> IRModule:
        """All functions that were added, in one module."""
        mod = self.builder.get()
        for name, main in self.mains.items():
            mod[name] = main
        return mod


def _content(region: CompiledRegion) -> object:
    """Equal of regions that are the same graph, for the same operators."""
    digest = hashlib.sha256(region.onnx).digest()
    return digest, region.inputs, region.outputs, region.names, region.outside


@mutator
class _Renamer(PyExprMutator):
    """A function over other kernels, NPU regions and constants."""

    def __init__(
        self,
        mod: IRModule,
        kernels: Mapping[GlobalVar, GlobalVar],
        symbols: Mapping[str, str],
        pool: ConstantPool,
    ) -> None:
        super().__init__(mod)
        self.kernels = kernels
        self.symbols = symbols
        self.pool = pool

    def visit_global_var_(self, var: GlobalVar) -> relax.Expr:
        return self.kernels.get(var, var)

    def visit_extern_func_(self, func: relax.ExternFunc) -> relax.Expr:
        symbol = str(func.global_symbol)
        return relax.ExternFunc(self.symbols[symbol]) if symbol in self.symbols else func

    def visit_generic_const_(self, constant: GenericConst) -> relax.Expr:
        return self.pool.shared(constant)
