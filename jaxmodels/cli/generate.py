"""`jaxmodels generate`: continues one prompt."""

import sys
import time
from collections.abc import Callable
from dataclasses import KW_ONLY, asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jaxmodels.cli.common import (
    DEFAULT_MODEL,
    MODEL_HELP,
    AsJson,
    print_json,
    read_file,
    read_text,
    tell,
)
from jaxmodels.cli.options import with_groups
from jaxmodels.cli.pictures import Pictures, check_given, steps_shown
from jaxmodels.cli.programs import Programs
from jaxmodels.cli.reading import Reading
from jaxmodels.cli.sampling import Sampling
from jaxmodels.cli.strategies import Asked, StrategyOptions

if TYPE_CHECKING:
    from jaxmodels import Model
    from jaxmodels.checkpoints import Tokenizer
    from jaxmodels.decoding import LogProbs, Strategy
    from jaxmodels.decoding.histories import History
    from jaxmodels.generated import Generation

CHUNK = 8


@dataclass(frozen=True)
class Call:
    """One generation: who continues which prompt, how, and until when. stops: texts, each of which must be
    one token. stop_strings: texts of any tokens. prefill_layers: how many layers read the prompt at a time,
    None for all."""

    model: "Model"
    tokenizer: "Tokenizer"
    strategy: "Strategy"
    prompt: list[int]
    _: KW_ONLY
    max_new_tokens: int
    stops: list[str]
    stop_strings: list[str]
    seed: int
    prefill_layers: int | None = None

    @property
    def ends(self) -> dict[str, Any]:
        """What ends the text: the checkpoint's tokens and strings and those asked for."""
        own = self.model.generation
        tokens = (_stop_id(self.tokenizer, one) for one in self.stops)
        return {
            "stop_tokens": (*own.eos_token_ids, *tokens),
            "stop_strings": (*own.stop_strings, *self.stop_strings),
        }

    def run(self) -> "Generation":
        """All at once."""
        return self.model.generate(
            self.prompt, self.max_new_tokens, self.strategy, **self.ends, seed=self.seed, history=self.history
        )

    @property
    def history(self) -> "History | None":
        """The prompt as it is read in groups of layers; None where it is read in all at once."""
        if self.prefill_layers is None:
            return None
        return self.model.prefill(self.prompt, self.max_new_tokens, layers=self.prefill_layers)


@dataclass(frozen=True, kw_only=True)
class Printing:
    """The options by which what was generated is printed, as given.

    Raises:
        ValueError: log-probabilities without the form that holds them.
    """

    stream: Annotated[
        bool, typer.Option("--stream/--no-stream", help="Print text as it comes, or at the end.")
    ] = True
    as_json: AsJson = False
    logprobs: Annotated[
        int | None,
        typer.Option(help="With --json: log-probabilities of the tokens and of this many alternatives."),
    ] = None
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No timing line on standard error.")] = False

    def __post_init__(self) -> None:
        if self.logprobs is not None and not self.as_json:
            raise ValueError("--logprobs needs --json, which prints them")

    @property
    def is_whole(self) -> bool:
        """Whether nothing is printed before all is generated."""
        return self.as_json or not self.stream

    def result(self, call: Call, text: str, about: dict[str, Any]) -> str:
        """Generates and prints, and gives the timing line's beginning."""
        if self.as_json:
            return _print_json(call, text, about)
        return _print_stream(call) if self.stream else _print_whole(call)

    def tell(self, timing: str) -> None:
        if not self.quiet:
            tell(timing)


@with_groups
def generate(
    *,
    context: typer.Context,
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="PROMPT", help="The text to continue. '-', or none with a pipe: standard input."
        ),
    ] = None,
    file: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Read the prompt from this file.")
    ] = None,
    model: Annotated[str, typer.Option("--model", "-m", help=MODEL_HELP)] = DEFAULT_MODEL,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", "-n", help="Tokens at most.")] = 64,
    sampling: Sampling,
    strategy: StrategyOptions,
    reading: Reading,
    printing: Printing,
    pictures: Pictures,
    seed: Annotated[int, typer.Option(help="Of the random draws.")] = 0,
    stop: Annotated[
        list[str] | None, typer.Option(help="End after this text, which must be one token. Repeatable.")
    ] = None,
    stop_string: Annotated[
        list[str] | None, typer.Option(help="End before this text, whatever its tokens. Repeatable.")
    ] = None,
    compiled: Annotated[
        Path | None,
        typer.Option(
            file_okay=False, help="Run the programs that `jaxmodels tpu compile` wrote to this directory."
        ),
    ] = None,
    prefill_layers: Annotated[
        int | None,
        typer.Option(min=1, help="Read the prompt in so many layers at a time, and those weights once."),
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="The prompt is a user's message in the chat format.")
    ] = False,
) -> None:
    """Continue a prompt, or draw pictures with an image model.

    Greedy by default; any of --temperature, --top-k, --top-p, --min-p and --typical-p samples. The first call
    compiles; later ones find what it compiled, see `jaxmodels cache`.
    """
    if compiled is not None and prefill_layers is not None:
        raise ValueError("--prefill-layers: the programs of --compiled read prompts whole; leave one out")
    if pictures.are_asked_for:
        check_given(context)
        if prompt is not None:
            pictures = replace(pictures, prompts=[*(pictures.prompts or ()), prompt])
        with steps_shown(printing.quiet) as progress:
            printing.tell(_draw(reading, model, pictures, strategy.steps, seed, progress))
        return
    text = _read_prompt(prompt, file)
    programs = Programs(compiled, _words(context, text), whole=printing.is_whole, spread=reading.is_spread)
    programs.begin_reading(text)
    base = sampling.asked_for()  # before the weights are read: bad options fail at once
    began = time.perf_counter()
    loaded = _language_model(reading, model, compiled)
    base = base or sampling.over(loaded)
    loaded = programs.given_to(loaded)
    load_seconds = time.perf_counter() - began
    tokenizer = _tokenizer(loaded, model)
    ids = _encode(tokenizer, text, chat)
    asked = Asked(loaded, model, ids, max_new_tokens)
    call = Call(
        loaded,
        tokenizer,
        strategy.build(replace(base, top_logprobs=printing.logprobs), reading.beside(), asked),
        ids,
        max_new_tokens=max_new_tokens,
        stops=stop or [],
        stop_strings=stop_string or [],
        seed=seed,
        prefill_layers=prefill_layers,
    )
    about = {"model": model, "dtype": str(loaded.config.dtype_of(loaded.params))}
    timing = printing.result(call, text, about | {"load_seconds": load_seconds})
    programs.note(loaded)
    printing.tell(f"{timing}, compilation included; model loaded in {load_seconds:.2f} s")


def _language_model(reading: Reading, name: str, compiled: Path | None) -> "Model":
    loaded = reading.model(name, compiled)
    from jaxmodels.model import Model

    if not isinstance(loaded, Model):
        raise ValueError(f"{name!r} is an image model: say what to draw with --class and --grid or --strip")
    return loaded


def _words(context: typer.Context, text: str) -> str:
    """What was asked for but for the prompt, of which only the size matters to programs."""
    options = {name: value for name, value in context.params.items() if name not in ("prompt", "file")}
    return f"{sorted(options.items())} {len(text.encode()).bit_length()}"


def _draw(
    reading: Reading,
    name: str,
    pictures: Pictures,
    steps: int | None,
    seed: int,
    progress: Callable[[int, int | None], None] | None,
) -> str:
    """Writes pictures, and gives the timing line."""
    import jaxmodels as jm

    began = time.perf_counter()
    loaded = reading.model(name)
    seconds = time.perf_counter() - began
    if isinstance(loaded, jm.Model):
        raise ValueError(f"{name!r} is a language model: --class, --grid and --strip are of image models")
    timing = pictures.draw(loaded, steps=steps, seed=seed, progress=progress)
    return f"{timing}, compilation included; model loaded in {seconds:.2f} s"


def _read_prompt(prompt: str | None, file: Path | None) -> str:
    """The prompt's text; one line break at the end of a file or of standard input is not part of it."""
    if prompt is not None and file is not None:
        raise ValueError("give a prompt or --file, not both")
    if file is not None:
        text = read_file(file)
    elif prompt is not None and prompt != "-":
        return prompt
    elif prompt is None and sys.stdin.isatty():
        raise ValueError("no prompt: give one as an argument, with --file, or through a pipe")
    else:
        text = read_text("standard input", sys.stdin.buffer)
    return text.removesuffix("\n")


def _tokenizer(model: "Model", name: str) -> "Tokenizer":
    from jaxmodels.checkpoints.hub import resolve
    from jaxmodels.checkpoints.tokenizer import why_no_tokenizer

    if model.tokenizer is None:
        raise ValueError(why_no_tokenizer(resolve(name)))
    return model.tokenizer


def _encode(tokenizer: "Tokenizer", text: str, chat: bool) -> list[int]:
    """The prompt's tokens; with `chat` it is a user's message."""
    return tokenizer.encode_chat([{"role": "user", "content": text}]) if chat else tokenizer.encode(text)


def _stop_id(tokenizer: "Tokenizer", text: str) -> int:
    from jaxmodels.checkpoints.token_inputs import check_text

    check_text(text, "--stop")
    encoding = tokenizer.backend.encode(text, add_special_tokens=False)
    if len(encoding.ids) == 1:
        return encoding.ids[0]
    raise ValueError(
        f"--stop {text!r} is {len(encoding.ids)} tokens for this tokenizer ({encoding.tokens}); "
        "it must be exactly one"
    )


def _print_json(call: Call, text: str, about: dict[str, Any]) -> str:
    """Prints everything as one JSON object, and gives the timing line's beginning."""
    out = call.run()
    print_json(about | _result(text, out, call.tokenizer))
    return _rate(out)


def _print_whole(call: Call) -> str:
    """Prints the text at its end, and gives the timing line's beginning."""
    out = call.run()
    assert out.text is not None
    print(out.text[0])
    return _rate(out)


def _rate(out: "Generation") -> str:
    new, seconds = out.stats.new_tokens, out.stats.seconds
    return f"{new} tokens in {seconds:.2f} s: {new / seconds:.1f} tokens/s"


def _print_stream(call: Call) -> str:
    """Prints text as it comes, and gives the timing line's beginning."""
    began = time.perf_counter()
    times: list[float] = []
    counts: list[int] = []
    pieces = call.model.stream(
        call.prompt,
        call.max_new_tokens,
        call.strategy,
        **call.ends,
        seed=call.seed,
        chunk=CHUNK,
        history=call.history,
    )
    for piece in pieces:
        times.append(time.perf_counter() - began)
        counts.append(piece.tokens)
        sys.stdout.write(piece.text)
        sys.stdout.flush()
    sys.stdout.write("\n")
    sys.stdout.flush()
    timing = f"{counts[-1]} tokens in {times[-1]:.2f} s: {counts[-1] / times[-1]:.1f} tokens/s"
    if len(times) > 3:  # prefill and the first chunk compile, the last piece has no tokens
        rate = (counts[-1] - counts[1]) / (times[-1] - times[1])
        timing = f"{timing} ({rate:.1f} once compiled), the first after {times[0]:.2f} s"
    return timing


def _result(prompt: str, out: "Generation", tokenizer: "Tokenizer") -> dict[str, Any]:
    """The JSON object of one generation."""
    assert out.text is not None
    length = int(out.lengths[0])
    tokens = out.tokens[0, :length].tolist()
    values: dict[str, Any] = {
        "prompt": prompt,
        "text": out.text[0],
        "tokens": tokens,
        "lengths": {"prompt": out.stats.prompt_tokens, "new": length},
        "stats": asdict(out.stats) | {"tokens_per_second": length / out.stats.seconds},
    }
    if out.log_probs is not None:
        values["log_probs"] = _log_probs(tokens, out.log_probs, tokenizer)
    return values


def _log_probs(tokens: list[int], log_probs: "LogProbs", tokenizer: "Tokenizer") -> list[dict[str, Any]]:
    def entry(token: int, value: Any) -> dict[str, Any]:
        piece = tokenizer.backend.decode([token], skip_special_tokens=False)
        return {"token": token, "text": piece, "log_prob": float(value)}

    return [
        entry(token, log_probs.chosen[0, i])
        | {
            "top": [
                entry(int(other), value)
                for other, value in zip(log_probs.top_ids[0, i], log_probs.top[0, i], strict=True)
            ]
        }
        for i, token in enumerate(tokens)
    ]
