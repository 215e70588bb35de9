"""The options of `jaxmodels generate` that say how the next token is picked, and what they make."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jaxmodels.cli.common import told_of_option

if TYPE_CHECKING:
    from jaxmodels import Model
    from jaxmodels.decoding import Autoregressive
    from jaxmodels.decoding.processors import Processor

_SAMPLER = ("temperature", "top_k", "top_p", "min_p", "typical_p")


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The options as given; None where they were not."""

    temperature: Annotated[float | None, typer.Option(help="Sample, with logits divided by this.")] = None
    top_k: Annotated[int | None, typer.Option(help="Sample among this many likeliest tokens.")] = None
    top_p: Annotated[
        float | None, typer.Option(help="Sample among the likeliest tokens of this total probability.")
    ] = None
    min_p: Annotated[
        float | None, typer.Option(help="Sample among tokens this likely relative to the likeliest.")
    ] = None
    typical_p: Annotated[
        float | None,
        typer.Option(help="Sample among tokens nearest to the usual surprise, of this total probability."),
    ] = None
    recommended: Annotated[bool, typer.Option("--recommended", help="Use the checkpoint's own settings.")] = (
        False
    )
    repetition_penalty: Annotated[
        float | None, typer.Option(help="Above 1: makes tokens that occurred already less likely.")
    ] = None
    frequency_penalty: Annotated[
        float | None,
        typer.Option(help="Above 0: makes tokens less likely each time they occur in the answer."),
    ] = None
    presence_penalty: Annotated[
        float | None, typer.Option(help="Above 0: makes tokens that occur in the answer less likely.")
    ] = None
    no_repeat_ngram: Annotated[int | None, typer.Option(help="No sequence of this many tokens twice.")] = None
    logit_bias: Annotated[
        list[str] | None,
        typer.Option(metavar="ID=BIAS", help="Add to the logit of a token. Repeatable."),
    ] = None
    min_new_tokens: Annotated[int | None, typer.Option(help="No end token before this many tokens.")] = None

    def asked_for(self) -> "Autoregressive | None":
        """Sequential decoding with these options alone; None where the checkpoint's settings come first.

        Raises:
            ValueError: a value outside its range, or options of the sampler beside --recommended.
        """
        from jaxmodels.decoding import Autoregressive, Greedy, Sample

        given: dict[str, Any] = {name: getattr(self, name) for name in _SAMPLER}
        given = {name: value for name, value in given.items() if value is not None}
        if self.recommended and given:
            name = next(iter(given)).replace("_", "-")
            raise ValueError(f"--recommended takes the checkpoint's sampling settings; leave out --{name}")
        processors = self._processors()
        if self.recommended:
            return None
        return Autoregressive(sampler=Sample(**given) if given else Greedy(), processors=processors)

    def over(self, model: "Model") -> "Autoregressive":
        """Sequential decoding as the checkpoint recommends it, these options in place of its own."""
        own, given = model.recommended_strategy(), self._processors()
        by_kind: dict[type, Processor] = {type(one): one for one in (*own.processors, *given)}
        return replace(own, processors=tuple(by_kind.values()))

    def _processors(self) -> "tuple[Processor, ...]":
        """In the order in which `recommended_strategy` applies them."""
        from jaxmodels.decoding import processors

        biases = None if self.logit_bias is None else dict(map(_bias, self.logit_bias))
        given: tuple[tuple[str, Any, Any], ...] = (
            ("logit-bias", processors.LogitBias, biases),
            ("repetition-penalty", processors.RepetitionPenalty, self.repetition_penalty),
            ("frequency-penalty", processors.FrequencyPenalty, self.frequency_penalty),
            ("presence-penalty", processors.PresencePenalty, self.presence_penalty),
            ("no-repeat-ngram", processors.NoRepeatNGram, self.no_repeat_ngram),
            ("min-new-tokens", processors.MinNewTokens, self.min_new_tokens),
        )
        made = []
        for option, kind, value in given:
            if value is not None:
                with told_of_option(option):
                    made.append(kind(value))
        return tuple(made)


def _bias(text: str) -> tuple[int, float]:
    from jaxmodels.checks import shown

    token, _, bias = text.partition("=")
    try:
        return int(token), float(bias)
    except ValueError:
        raise ValueError(
            f"--logit-bias must be a token id and a number, such as 42=-1.5, got {shown(text)}"
        ) from None
