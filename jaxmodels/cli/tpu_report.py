"""What `jaxmodels tpu plan` prints."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from jaxmodels.cli.summaries import scaled

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jaxmodels.tpu_configs.plan import Beside, Memory, Plan, Roofline
    from jaxmodels.tpu_configs.plan.denoising import DenoiserPlan
    from jaxmodels.tpu_configs.reports import ProgramReport
    from jaxmodels.tpu_configs.slices import Slice

GIB = 2**30
TABLE = 100  # characters of a comparison


def as_values(plan: "Plan") -> dict[str, Any]:
    """A plan as JSON values: bytes, operations and seconds, of one device where it is not said otherwise."""

    memory = plan.memory
    least, most = plan.per_token
    return {
        "slice": slice_values(plan.slice),
        "mesh": dict(plan.mesh),
        "workload": asdict(plan.workload),
        "quantize": plan.quantize,
        "memory": {
            **asdict(memory), "working": memory.working, "code": memory.code, "total": memory.total,
        },
        "fits": memory.fits,
        "missing": memory.missing,
        "advice": list(plan.advice),
        "prefill": roofline_values(plan.prefill),
        "decode": {**roofline_values(plan.decode), "tokens_scored_per_row": plan.window},
        "seconds_to_first_token": plan.prefill.seconds,
        "seconds_per_token": {"least": least, "most": most},
        "tokens_per_second": plan.throughput,
    }  # fmt: skip


def slice_values(on: "Slice") -> dict[str, Any]:
    """A slice as JSON values."""
    return {
        "name": on.name, "chips": on.chips, "devices": on.devices, "hosts": on.hosts,
        "topology": on.topology, "source": on.chip.source,
    }  # fmt: skip


def roofline_values(it: "Roofline") -> dict[str, Any]:
    """A program's least time as JSON values."""
    return {**asdict(it), "seconds": it.seconds, "bound": it.bound}


def plan_lines(plan: "Plan") -> list[tuple[str, str]]:
    """The lines of one plan: what is said, of what."""
    memory, work = plan.memory, plan.workload
    left = memory.usable - memory.total
    verdict = f"fits, {gib(left)} left" if memory.fits else f"does not fit: {gib(-left)} too much"
    return [
        ("slice", slice_line(plan.slice)),
        ("mesh", mesh_line(plan.mesh)),
        ("workload", f"{work.batch} x {work.prompt} tokens + {work.new_tokens} new, {work.dtype}"),
        *(() if plan.quantize is None else (("weights", f"held as {plan.quantize}"),)),
        ("memory per device", f"{gib(memory.total)} of {gib(memory.usable)}: {verdict}"),
        ("", f"parameters {gib(memory.parameters)}, cache {gib(memory.cache)}"),
        *(("", f"estimated: {_program(name, memory, it)}") for name, it in _programs(memory)),
        *(("change", advice) for advice in plan.advice),
        ("first token", f"at least {seconds(plan.prefill.seconds)}, bound by {plan.prefill.bound}"),
        ("", traffic(plan.prefill)),
        ("each further token", _per_token(plan)),
        ("", traffic(plan.decode)),
        ("throughput", f"at most {scaled(plan.throughput, 'token/s')}"),
    ]


def _programs(memory: "Memory") -> "tuple[tuple[str, Beside], ...]":
    return ("prefill", memory.prefill), ("decode", memory.decode)


def _program(name: str, memory: "Memory", beside: "Beside") -> str:
    return (
        f"{name} {gib(memory.while_running(beside))} (working {gib(beside.working)}, program "
        f"{gib(beside.code)})"
    )


def report_line(report: "ProgramReport") -> str:
    """What the compiler says of one program, in a line."""
    own = report.output_bytes - report.alias_bytes
    return (
        f"compiled {report.program}: {gib(report.device_bytes)} per device (arguments "
        f"{gib(report.argument_bytes)}, working memory {gib(report.temp_bytes + own)}, program "
        f"{gib(report.generated_code_bytes)}), {scaled(report.flops, 'FLOP')}, "
        f"{scaled(report.bytes_accessed, 'B')} accessed, in {report.seconds:.0f} s"
    )


def comparison(plans: "Sequence[Plan] | Sequence[DenoiserPlan]", refused: dict[str, str], unit: str) -> None:
    """Prints a table of plans, one slice per row. unit: of their throughput."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("slice", "mesh"):
        table.add_column(name, no_wrap=True)
    for name in ("GiB", "of", "", *plans[0].times, "bound by", unit):
        table.add_column(name, justify="right", no_wrap=True)
    for it in plans:
        memory = it.memory
        table.add_row(
            it.slice.name, mesh_line(it.mesh), f"{memory.total / GIB:.2f}", f"{memory.usable / GIB:.2f}",
            "fits" if memory.fits else "too much", *map(seconds, it.times.values()), it.bound,
            scaled(it.throughput, "").strip(),
        )  # fmt: skip
    console = Console(highlight=False, markup=False)
    console.width = max(console.width, TABLE)  # terminals wrap what is wider, and pipes have no width
    console.print(table)
    for name, reason in refused.items():
        console.print(f"{name}: {reason}")


def _number(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


def slice_line(on: "Slice") -> str:
    """A slice in a line."""
    share = "" if on.chip.devices == 1 else f", {on.chip.devices} devices per chip"
    return f"{on.name}: {_number(on.chips, 'chip')} ({on.topology}){share}, {_number(on.hosts, 'host')}"


def mesh_line(sizes: "Mapping[str, int]") -> str:
    """The sizes of a mesh in a line."""
    return ", ".join(f"{axis}={size}" for axis, size in sizes.items()) or "one device"


def _per_token(plan: "Plan") -> str:
    least, most = plan.per_token
    if plan.window == 1:
        return f"at least {seconds(most)}, bound by {plan.decode.bound}"
    return (
        f"at least {seconds(least)} to {seconds(most)}: a step scores {plan.window} tokens per row and "
        f"keeps 1 to all of them; bound by {plan.decode.bound}"
    )


def traffic(it: "Roofline") -> str:
    """What a program computes, reads and sends, in a line."""
    sent = f", {scaled(it.exchanged, 'B')} sent" if it.exchanged else ""
    return f"per device {scaled(it.flops, 'FLOP')}, {scaled(it.read, 'B')} of memory{sent}"


def gib(size: float) -> str:
    """Bytes in GiB."""
    return f"{size / GIB:.2f} GiB"


def seconds(value: float) -> str:
    """A time, in ms where it is below a second."""
    return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms"
