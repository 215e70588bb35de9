"""What a model takes and how fast it can be on a TPU slice, from its configuration alone."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from jaxmodels.decoding import Jacobi, Speculative
from jaxmodels.decoding.strategy import Branching, Strategy
from jaxmodels.layers.quantized.quantization import Quantization, find_quantization, formats
from jaxmodels.models.decoder import Decoder
from jaxmodels.tpu_configs.plan.advice import largest, smallest_slices
from jaxmodels.tpu_configs.plan.mesh_sizes import checked, divisors
from jaxmodels.tpu_configs.plan.roofline import Bound, Roofline, decode_roofline, prefill_roofline
from jaxmodels.tpu_configs.plan.spread import spread
from jaxmodels.tpu_configs.plan.working import Beside, of_prefill, of_step
from jaxmodels.tpu_configs.programs import Workload
from jaxmodels.tpu_configs.rules import DEFAULT_RULES, Rules
from jaxmodels.tpu_configs.slices import Slice

# Quantisations that are proposed for a model that does not fit, the more precise first.
_PROPOSED = ("int8", "int4")


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes in the memory of one device.

    Attributes:
        parameters, cache: what is kept between programs, tile padding not counted.
        prefill, decode: what each of the two programs takes beside them.
        usable: what the compiler lets programs have.
    """

    parameters: int
    cache: int
    prefill: Beside
    decode: Beside
    usable: int

    @property
    def working(self) -> int:
        """Arrays of the program that needs more: they run by turns."""
        return max(self.prefill.working, self.decode.working)

    @property
    def code(self) -> int:
        """Both programs, which stay."""
        return self.prefill.code + self.decode.code

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    def while_running(self, program: Beside) -> int:
        """Bytes of one of the two programs with all that it reads: what the compiler says that it needs."""
        return self.parameters + self.cache + program.working + program.code

    @property
    def parts(self) -> dict[str, int]:
        """What `total` is made of."""
        return {
            "parameters": self.parameters, "cache": self.cache, "working": self.working, "code": self.code,
        }  # fmt: skip

    @property
    def fits(self) -> bool:
        return self.total <= self.usable

    @property
    def missing(self) -> int:
        """Bytes by which it does not fit; 0 where it does."""
        return max(0, self.total - self.usable)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A model on a slice.

    Attributes:
        slice: what it runs on.
        mesh: how it is spread over its devices, sizes above 1 only.
        rules: by which sharding rules: those given, or the same with the vocabulary whole on every device,
            where nothing else divides it.
        quantize: how the weights are held, None in the workload's dtype.
        workload: the shapes that it is planned for; of a strategy that draws samples, each is a row.
        memory: of one device.
        prefill, decode: settling all prompts, and one step of all rows, on one device.
        window: tokens of a row that one step scores.
        copied: bytes of the embedding that the compiler lays out anew in front of a program's loop, because
            its rows do not fill tiles.
        advice: what to change where it does not fit, the least first; empty where it does.
    """

    slice: Slice
    mesh: Mapping[str, int]
    rules: Rules
    quantize: str | Quantization | None
    workload: Workload
    memory: Memory
    prefill: Roofline
    decode: Roofline
    window: int
    copied: int = 0
    advice: tuple[str, ...] = ()

    @property
    def per_token(self) -> tuple[float, float]:
        """Least and most seconds per output token of a row: every scored token accepted, or one."""
        return self.decode.seconds / self.window, self.decode.seconds

    @property
    def times(self) -> dict[str, float]:
        """Least seconds to the first token, and of each step behind it."""
        return {"first token": self.prefill.seconds, "further": self.decode.seconds}

    @property
    def bound(self) -> Bound:
        """What takes longest of a step."""
        return self.decode.bound

    @property
    def with_copies(self) -> float:
        """Seconds of a step that copies as well: what meshes are compared by."""
        chip = self.slice.chip
        return self.decode.seconds + 2 * self.copied * chip.devices / chip.bandwidth

    @property
    def throughput(self) -> float:
        """Tokens per second of all rows, with one token per row and step."""
        return self.workload.batch / self.decode.seconds


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What is to be planned.

    Attributes:
        config, workload, strategy: the model and what it does.
        sizes: the mesh, None for the one with the fastest step.
        rules: how the model is cut over it.
        quantize: how its weights are held, None in the workload's dtype.
    """

    config: Decoder
    workload: Workload
    strategy: Strategy
    sizes: Mapping[str, int] | None
    rules: Rules
    quantize: str | Quantization | None


def plan(
    config: Decoder,
    on: Slice,
    workload: Workload,
    strategy: Strategy,
    *,
    sizes: Mapping[str, int] | None = None,
    rules: Rules = DEFAULT_RULES,
    quantize: str | Quantization | None = None,
) -> Plan:
    """The plan of a model on a slice, spread over `sizes` or as `meshes` has it with the fastest step.

    `quantize` is what `jaxmodels.load` takes.

    Raises:
        ValueError: the mesh does not have the slice's devices or does not divide the model, no mesh does, a
            layer does not know its cost, a capacity that does not hold the strategy's window, or weights that
            `quantize` cannot hold.
    """
    if isinstance(strategy, Branching):
        workload = replace(workload, batch=workload.batch * strategy.samples)
    quantization = find_quantization(quantize)
    if quantization is not None:
        formats(config.spec(), quantization)
    asked = _Asked(
        config=config, workload=workload, strategy=strategy, sizes=sizes, rules=rules, quantize=quantize
    )
    found = _planned(asked, on)
    return found if found.memory.fits else replace(found, advice=tuple(_advice(asked, found)))


def _planned(asked: _Asked, on: Slice) -> Plan:
    """The plan without advice."""
    if asked.sizes is not None:
        return _on_mesh(asked, on, checked(asked.sizes, on), asked.rules)
    plans, refusal = [], None
    for candidate in meshes(asked.config, on):
        for known in (asked.rules, replace(asked.rules, vocab=None)):
            try:
                plans.append(_on_mesh(asked, on, candidate, known))
            except ValueError as error:
                refusal = refusal or error
            else:
                break
    if not plans:
        raise ValueError(
            f"{on.name}: no mesh of its {on.devices} devices divides the model; {refusal}"
        ) from refusal
    return min(plans, key=lambda it: (it.memory.missing, it.with_copies))


def _on_mesh(asked: _Asked, on: Slice, sizes: Mapping[str, int], rules: Rules) -> Plan:
    workload, strategy = asked.workload, asked.strategy
    slots, window = workload.slots(strategy.lookahead), _scored_tokens(strategy)
    spreading = spread(asked.config, workload, slots, sizes, rules, find_quantization(asked.quantize))
    fed = min(workload.prompt, strategy.prefill_window)
    return Plan(
        slice=on,
        mesh={axis: size for axis, size in sizes.items() if size > 1},
        rules=rules,
        quantize=asked.quantize,
        workload=workload,
        memory=Memory(
            parameters=spreading.parameters,
            cache=spreading.cache,
            prefill=of_prefill(spreading, fed),
            decode=of_step(spreading, window),
            usable=on.chip.usable_bytes,
        ),
        prefill=prefill_roofline(spreading, workload, strategy.prefill_window, on.chip),
        decode=decode_roofline(spreading, workload, window, on.chip),
        window=window,
        copied=spreading.copied,
    )


def _scored_tokens(strategy: Strategy) -> int:
    """Tokens of a row that one step goes through the layers with."""
    if isinstance(strategy, Jacobi):
        return strategy.window
    if isinstance(strategy, Speculative):
        return strategy.drafter.size + 1
    return strategy.lookahead + 1


def meshes(config: Decoder, on: Slice) -> Iterator[dict[str, int]]:
    """The meshes that are worth trying: heads and features over as many devices as divide them, and what is
    left of the devices over experts, or over rows of the batch."""
    over = ("expert", "data") if any(hasattr(block.ffn, "experts") for block in config.blocks) else ("data",)
    for tensor in (size for size in divisors(on.devices)):
        rest = on.devices // tensor
        if rest == 1:
            yield {"tensor": tensor}
        else:
            yield from ({axis: rest, "tensor": tensor} for axis in over)


def _advice(asked: _Asked, found: Plan) -> Iterator[str]:
    """What would make it fit: fewer rows, a shorter context, weights in few bits, the smallest slice of each
    generation."""
    workload, here = found.workload, found.slice

    def fits(on: Slice, changed: _Asked) -> bool:
        try:
            return _planned(changed, on).memory.fits
        except ValueError:
            return False

    def doing(changed: Workload) -> _Asked:
        return replace(asked, workload=changed)

    batch = largest(workload.batch, lambda n: fits(here, doing(replace(workload, batch=n))))
    if batch:
        yield f"--batch {batch} fits on {here.name}"
    if workload.capacity is None:
        context = largest(workload.prompt, lambda n: fits(here, doing(replace(workload, prompt=n))))
        if context:
            yield f"--context {context} fits on {here.name}"
    if asked.quantize is None:
        for name in _PROPOSED:
            if fits(here, replace(asked, quantize=name)):
                yield f"--quantize {name} fits on {here.name}"
                break
    yield from smallest_slices(here, lambda it: fits(it, replace(asked, sizes=None)))
