"""`jaxmodels inspect`: what a model is and costs, from its `config.json` alone."""

import itertools
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jaxmodels.cli.common import (
    DEFAULT_MODEL,
    AsJson,
    ConfigName,
    DType,
    Revision,
    TextOnly,
    Verify,
    print_json,
    read_file,
)
from jaxmodels.cli.inspect_images import describe_images, image_directory, image_lines
from jaxmodels.cli.summaries import letter, print_lines, scaled, summarise

if TYPE_CHECKING:
    from jaxmodels.model import Model
    from jaxmodels.models.decoder import Decoder

DEFAULT_PLOT = Path("hidden_attention.png")
DEFAULT_SPEED_UP = 1.25


def inspect(
    model: ConfigName = DEFAULT_MODEL,
    context: Annotated[int, typer.Option(help="Tokens of history that FLOPs are given for.")] = 2048,
    dtype: Annotated[DType, typer.Option(help="Of the cache.")] = DType.BFLOAT16,
    text: Annotated[
        str | None, typer.Option(help="Show the model this text and report the load of its experts.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="The same with a file's text.", exists=True, dir_okay=False)
    ] = None,
    hidden_attention: Annotated[
        int | None, typer.Option(metavar="BLOCK", help="Plot this state space block's matrix over the text.")
    ] = None,
    depth: Annotated[
        bool, typer.Option("--depth", help="Report what each block contributes to the text.")
    ] = False,
    speed_up: Annotated[
        float | None,
        typer.Option(help=f"With --depth: propose blocks to skip for this, {DEFAULT_SPEED_UP} by default."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help=f"The image file of --hidden-attention, {DEFAULT_PLOT} by default, or of --depth."),
    ] = None,
    as_json: AsJson = False,
    text_only: TextOnly = False,
    verify: Verify = True,
    revision: Revision = None,
) -> None:
    """Show a model's blocks, parameters, memory and FLOPs. No weights are read unless there is a text.

    Of an image model also its components; --context is then of the text that its denoiser reads.
    A multiply-add counts two FLOPs. Prefill is per prompt token, for a prompt as long as --context.
    """
    from jaxmodels.cli.common import read_config

    if text is not None and file is not None:
        raise ValueError("give --text or --file, not both")
    shown = read_file(file) if file is not None else text
    _check_options(shown, hidden_attention, depth, speed_up, plot)
    images = image_directory(model, revision)
    if images is not None:
        if shown is not None:
            raise ValueError(f"{model!r} is an image model: --text, --file and --plot are of language models")
        report = describe_images(images, context)
        if as_json:
            print_json(report)
        else:
            print_lines(image_lines(report))
        return
    config, config_file = read_config(model, revision, text_only=text_only)
    report = {"config": str(config_file), **describe(config, context, dtype.value)}
    report |= _further_tokens(config, config_file, text_only)
    if shown is not None and depth:
        from jaxmodels.cli.inspect_depth import depth_report

        loaded = _load(model, revision, verify, text_only)
        report["depth"] = depth_report(loaded, shown, speed_up or DEFAULT_SPEED_UP, plot)
    elif shown is not None:
        loaded = _load(model, revision, verify, text_only)
        report |= _with_text(loaded, model, shown, hidden_attention, plot or DEFAULT_PLOT)
    if as_json:
        print_json(report)
    else:
        print_lines(_lines(report))


def _check_options(
    shown: str | None, hidden_attention: int | None, depth: bool, speed_up: float | None, plot: Path | None
) -> None:
    """Raises ValueError where options of reports on a text do not go together."""
    if hidden_attention is not None and shown is None:
        raise ValueError("--hidden-attention needs a text: give --text or --file")
    if depth and shown is None:
        raise ValueError("--depth needs a text: give --text or --file")
    if depth and hidden_attention is not None:
        raise ValueError("give --hidden-attention or --depth, not both: they share --plot")
    if speed_up is not None and not depth:
        raise ValueError("--speed-up is what --depth proposes blocks for; give that too, or leave it out")
    if plot is not None and hidden_attention is None and not depth:
        raise ValueError(
            "--plot is the image of --hidden-attention BLOCK or of --depth; give one of them, or leave it out"
        )


def _further_tokens(config: "Decoder", config_file: Path, text_only: bool) -> dict[str, Any]:
    """What a configuration announces of modules for multi-token prediction, which are beside the model."""
    from jaxmodels.checkpoints.draft_heads.mtp import announced_head
    from jaxmodels.checkpoints.files import read_json_object
    from jaxmodels.layers.spec import count_params
    from jaxmodels.models.text_part import text_part

    values = read_json_object(config_file)
    head = announced_head(config, text_part(values) if text_only else values)
    if head is None:
        return {}
    return {"multi_token_prediction": {"modules": len(head.modules), "parameters": count_params(head.spec())}}


def _load(model: str, revision: str | None, verify: bool, text_only: bool) -> "Model":
    import jaxmodels as jm
    from jaxmodels.io import as_language_model

    return as_language_model(jm.load(model, revision=revision, verify=verify, text_only=text_only), model)


def _with_text(loaded: "Model", model: str, text: str, block: int | None, image: Path) -> dict[str, Any]:
    """What a report says beyond the configuration."""
    from jaxmodels.cli.inspect_text import expert_report, plot_hidden_attention
    from jaxmodels.layers.moe import RoutedFeedForward

    report: dict[str, Any] = {}
    if block is not None:
        plot_hidden_attention(loaded, text, block, image)
        report["hidden_attention"] = {"block": block, "plot": str(image)}
    has_experts = any(isinstance(b.ffn, RoutedFeedForward) for b in loaded.decoder.blocks)
    if block is None and not has_experts:
        raise ValueError(
            f"{model} has no experts whose load on a text could be shown; leave out --text and --file, or "
            "give --hidden-attention BLOCK or --depth"
        )
    if has_experts:
        report["experts"] = expert_report(loaded, text)
    return report


def describe(config: "Decoder", context: int, cache_dtype: str) -> dict[str, Any]:
    """The report as JSON values.

    Raises:
        ValueError: `context` is out of range.
    """
    from jaxmodels.models.costs import (
        cache_bytes,
        flops_per_token,
        parameter_counts,
        prefill_flops,
        weight_bytes,
    )

    kinds = list(dict.fromkeys(config.blocks))
    counts, decode = parameter_counts(config), flops_per_token(config, context)
    return {
        "family": config.family,
        "layers": len(config.blocks),
        "d_model": config.d_model,
        "vocab_size": config.vocab_size,
        "tied_embeddings": config.tie_embeddings,
        "max_positions": config.max_positions,
        "pattern": [
            {"block": letter(kinds.index(block)), "times": len(list(run))}
            for block, run in itertools.groupby(config.blocks)
        ],
        "blocks": {
            letter(i): {
                "mixer": None if block.mixer is None else summarise(block.mixer),
                "feed_forward": None if block.ffn is None else summarise(block.ffn),
                "times": config.blocks.count(block),
            }
            for i, block in enumerate(kinds)
        },
        "parameters": asdict(counts) | {"total": counts.total},
        "bytes": {name: weight_bytes(config, name) for name in ("float32", "bfloat16")},
        "cache": {"dtype": cache_dtype, **asdict(cache_bytes(config, cache_dtype))},
        "flops": {
            "context": context,
            "decode_per_token": asdict(decode) | {"total": decode.total},
            "prefill_per_token": prefill_flops(config, context) / context,
        },
    }


def _lines(report: dict[str, Any]) -> list[tuple[str, str]]:
    counts, cache, flops = report["parameters"], report["cache"], report["flops"]
    decode = flops["decode_per_token"]
    pattern = " ".join(f"{run['times']}{run['block']}" for run in report["pattern"])
    lines = [
        ("family", str(report["family"])),
        ("shape", f"d_model {report['d_model']}, vocabulary {report['vocab_size']}"),
        ("layers", f"{report['layers']}: {pattern}"),
    ]
    for name, block in report["blocks"].items():
        layers = [layer for layer in (block["mixer"], block["feed_forward"]) if layer]
        lines.append((f"  {name}", layers[0]))
        lines += [("", layer) for layer in layers[1:]]
    lines.append(("parameters", f"{counts['total']:,}"))
    for part in ("embedding", "mixers", "feed_forwards", "norms", "head"):
        tied = part == "head" and report["tied_embeddings"]
        share = counts[part] / counts["total"]
        text = "the embedding" if tied else f"{counts[part]:,} ({share:.1%})"
        lines.append((f"  {part.replace('_', '-')}", text))
    return [
        *lines,
        ("weights", ", ".join(f"{_bytes(size)} in {dtype}" for dtype, size in report["bytes"].items())),
        (
            "cache",
            f"{_bytes(cache['per_token'])} per token and {_bytes(cache['per_row'])} per row "
            f"in {cache['dtype']}",
        ),
        (
            "decode",
            f"{_flops(decode['total'])} per token at {flops['context']} tokens: "
            f"weights {_flops(decode['weights'])}, context {_flops(decode['context'])}",
        ),
        ("prefill", f"{_flops(flops['prefill_per_token'])} per token of {flops['context']}"),
        *_module_lines(report),
        *_text_lines(report),
    ]


def _module_lines(report: dict[str, Any]) -> list[tuple[str, str]]:
    """The modules for multi-token prediction, if any are announced."""
    if "multi_token_prediction" not in report:
        return []
    found = report["multi_token_prediction"]
    number = "1 module" if found["modules"] == 1 else f"{found['modules']} modules"
    return [("predicts further", f"{number} beside the model, {found['parameters']:,} parameters")]


def _text_lines(report: dict[str, Any]) -> list[tuple[str, str]]:
    """What the model did with a text, if it was shown one."""
    lines = []
    if "hidden_attention" in report:
        plotted = report["hidden_attention"]
        lines.append(("hidden attention", f"of block {plotted['block']}: {plotted['plot']}"))
    for block, load in report.get("experts", {}).items():
        used, count = load["experts_per_token"], len(load["load"])
        text = (
            f"{used:.2f} of {count} per token, balance {load['balance']:.3f}, "
            f"busiest {load['busiest_over_mean']:.2f} times the mean, {len(load['unused'])} unused"
        )
        lines.append((f"experts of block {block}", text))
    if "depth" in report:
        from jaxmodels.cli.inspect_depth import depth_lines

        lines += depth_lines(report["depth"])
    return lines


def _bytes(size: float) -> str:
    return scaled(size, "B")


def _flops(count: float) -> str:
    return scaled(count, "FLOP")
