"""`Model`: a configuration, its parameters and a tokenizer, with the calls that most users need."""

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxmodels.checkpoints.adapters import KeptAdapters, read_adapter
from jaxmodels.checkpoints.arguments import check_optional_text, check_path
from jaxmodels.checkpoints.generation_config import GenerationDefaults
from jaxmodels.checkpoints.safetensors_io import TensorReader
from jaxmodels.checkpoints.tokenizer import Tokenizer
from jaxmodels.checks import shown, whole
from jaxmodels.decoding.arguments import check_sizes, check_strategy, stop_ids, stop_texts
from jaxmodels.decoding.autoregressive import Autoregressive
from jaxmodels.decoding.buckets import answer_bucket, capacity_bucket, prompt_bucket
from jaxmodels.decoding.default import default_strategy
from jaxmodels.decoding.fill_mask import FilledText, fill_masks
from jaxmodels.decoding.generation import Piece, Plan, check_causal, plan, run, stream, stream_text
from jaxmodels.decoding.histories import PREFILL_WINDOW, History, settle
from jaxmodels.decoding.programs import bounded_jit
from jaxmodels.decoding.prompts import PromptBatch, Prompts, encode_prompts
from jaxmodels.decoding.runners import TRACED, Runner
from jaxmodels.decoding.stop_strings import CutText, cut, stop_table_of
from jaxmodels.decoding.strategy import Strategy
from jaxmodels.generated import Generation, Stats
from jaxmodels.layers.host_memory import refuse_host_memory
from jaxmodels.layers.memory_order import ordered_params
from jaxmodels.layers.quantized.quantization import (
    Quantization,
    dequantized_params,
    in_few_bits,
    refuse_quantized,
)
from jaxmodels.layers.spec import Params, check_params
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.language_model import BlockStack, LanguageModel
from jaxmodels.recommended import recommended
from jaxmodels.tpu_configs.mesh import each_in_use, in_use
from jaxmodels.tpu_configs.repeated_heads import unrepeated_params
from jaxmodels.tpu_configs.rules import DEFAULT_RULES, Rules
from jaxmodels.tpu_configs.shardings import Placement

if TYPE_CHECKING:
    from jaxmodels.models.draft_heads.mtp import MTPHead


@dataclass(frozen=True, kw_only=True)
class Model:
    """A language model ready to run. Made by `jaxmodels.load` or `jaxmodels.init`.

    config: static, with `peek`, `commit`, `init_cache` and `forward` as pure functions: a `Decoder`, or
    another `LanguageModel`, which can neither be saved nor take adapters. params: nested dict of arrays.
    tokenizer: None where the checkpoint had none. generation: what the checkpoint recommends.
    metadata: keys of its ``config.json`` that do not describe the model. extra_tensors: what the checkpoint
    holds beyond `params`, modules that predict further tokens, for `jaxmodels.save` to write again; None
    where it holds nothing else. They stay in the files they came from and are read when they are saved.
    kept: the base and the adapters of a model that `with_adapter` gave, None for others. runner: where the
    programs of `generate` and `stream` come from, see `jaxmodels.artefacts.compiled`.
    mesh: the devices that the parameters are spread over, and that all calls run on; None for one device.
    rules: how parameters and caches are spread over them.
    unrepeated: `config` as it was before heads were repeated for the mesh; None where none were.
    """

    config: LanguageModel
    params: Params = field(repr=False)
    tokenizer: Tokenizer | None = None
    generation: GenerationDefaults = field(default_factory=GenerationDefaults)
    metadata: Mapping[str, Any] = field(default_factory=dict, repr=False)
    extra_tensors: TensorReader | None = field(default=None, repr=False)
    kept: KeptAdapters | None = field(default=None, repr=False)
    runner: Runner = field(default=TRACED, repr=False)
    mesh: Mesh | None = None
    rules: Rules = field(default=DEFAULT_RULES, repr=False)
    unrepeated: LanguageModel | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Raises ValueError where a field is of another kind; the calls look at `params` and `prompts`."""
        kinds: dict[str, tuple[Any, str]] = {
            "config": (LanguageModel, "a Decoder, as config_from_hf gives, or another LanguageModel"),
            "tokenizer": (Tokenizer | None, "a jaxmodels.checkpoints.Tokenizer or None"),
            "generation": (GenerationDefaults, "a GenerationDefaults"),
            "metadata": (Mapping, "a mapping"),
            "mesh": (Mesh | None, "a Mesh, as jaxmodels.tpu_configs.mesh.make_mesh gives, or None"),
            "rules": (Rules, "a jaxmodels.tpu_configs.rules.Rules"),
        }
        for name, (kind, what) in kinds.items():
            if not isinstance(getattr(self, name), kind):
                raise ValueError(f"{name} must be {what}, got {shown(getattr(self, name))}")
        if self.extra_tensors is not None and not hasattr(self.extra_tensors, "infos"):
            given = shown(self.extra_tensors)
            raise ValueError(f"extra_tensors must be a TensorReader, as load gives, or None, got {given}")

    @property
    def decoder(self) -> Decoder:
        """The configuration of a model whose weights have names in checkpoints, as all that are loaded have;
        no head is repeated in it.

        Raises ValueError where `config` is another kind of model.
        """
        config = self.unrepeated or self.config
        if not isinstance(config, Decoder):
            raise ValueError(
                f"config is a {type(config).__name__}, which has no form in checkpoints; a Decoder has"
            )
        return config

    @property
    def decoder_params(self) -> Params:
        """The parameters of `decoder`."""
        if self.unrepeated is None:
            return self.params
        return unrepeated_params(self.unrepeated, self.config, self.params)

    def on_mesh(self, mesh: Mesh, rules: Rules = DEFAULT_RULES) -> "Model":
        """This model spread over the devices of a mesh; `load` with a mesh reads one that no device holds.

        Heads that others share and that the mesh does not divide, such as key/value heads, are repeated in
        `config` and `params`, so that each device has those that its own heads read.

        Raises:
            ValueError: the mesh does not divide the model; the message names the parameter, its axis, the
                mesh axis and both sizes.
        """
        config = self.unrepeated or self.config
        params = self.params if self.unrepeated is None else self.decoder_params
        return replace(self, mesh=mesh, rules=rules)._spread(config, params)

    def _spread(self, config: LanguageModel, params: Params) -> "Model":
        """This model with another configuration and its parameters, on the mesh if there is one."""
        if self.placement is None:
            return replace(self, config=config, params=params)
        wider = self.placement.fitted(config)
        return replace(
            self,
            config=wider,
            params=self.placement.placed(config, params),
            unrepeated=None if wider is config else config,
        )

    def quantized(self, quantization: str | Quantization) -> "Model":
        """This model with its weights in few bits, as `load` with `quantize` reads one.

        Raises:
            ValueError: there is no quantisation of this name, it cannot hold a weight, or weights are
                quantised already; the message names the weight.
        """
        refuse_host_memory(self.params, "quantized")
        return replace(self, params=in_few_bits(self.config, self.params, quantization))

    def dequantized(self) -> "Model":
        """This model with the arrays that its quantised weights stand for, in the dtype that it computes
        in."""
        refuse_host_memory(self.params, "dequantized")
        params = dequantized_params(self.params)
        return replace(self, params=ordered_params(self.config.spec(), params))

    @property
    def placement(self) -> Placement | None:
        """The mesh with the rules, None without a mesh."""
        return None if self.mesh is None else Placement(mesh=self.mesh, rules=self.rules)

    @functools.cached_property
    def mtp(self) -> "tuple[MTPHead, Params]":
        """The modules for multi-token prediction that the checkpoint holds beside the model, with their
        parameters in the model's dtype. They are read at the first use.

        Raises:
            CheckpointError: there are none, or not all of a module; see `read_mtp`.
        """
        from jaxmodels.checkpoints.draft_heads.mtp import read_mtp  # few models have modules

        dtype = self.config.dtype_of(self.params)
        return read_mtp(self.decoder, self.metadata, self.extra_tensors, dtype)

    def with_adapter(
        self,
        adapter: str | Path,
        name: str | None = None,
        *,
        revision: str | None = None,
        allow_pickle: bool = False,
    ) -> "Model":
        """This model with a LoRA adapter as `peft` saves it, put in use in place of any other.

        The base stays as it is: the two share all arrays that the adapter leaves alone, and those that it
        changes are held in both forms. `use_adapter` changes between the adapters that a model has been given
        without reading them again, and `without_adapter` gives the base back. `jaxmodels.save` writes the
        weights in use.

        Args:
            adapter: a directory or a hub id.
            name: for `use_adapter`; by default the last part of `adapter`.
            revision: branch, tag or commit of a hub id.
            allow_pickle: read an adapter that is a PyTorch pickle. Only for sources that you trust.

        Raises:
            CheckpointError: there is no such adapter, it is of a kind that is not read, or it does not fit.
            ValueError: the model's weights are held in few bits; `load` merges adapters before it quantises.
        """
        check_path("adapter", adapter)
        check_optional_text("name", name)
        refuse_quantized(self.params, "with_adapter")
        refuse_host_memory(self.params, "with_adapter")
        read = read_adapter(adapter, revision, allow_pickle=allow_pickle)
        kept = self.kept or self._unadapted()
        name = name or Path(adapter).name
        return self._using(kept.with_adapter(name, read), name)

    def use_adapter(self, name: str) -> "Model":
        """This model with another of the adapters that `with_adapter` gave it.

        Raises ValueError if it has none of this name.
        """
        return self._using(self.kept or self._unadapted(), name)

    def without_adapter(self) -> "Model":
        """The model that adapters were given to, with its own arrays; it still has the adapters to use."""
        return self if self.kept is None else self._using(self.kept, None)

    def _unadapted(self) -> KeptAdapters:
        return KeptAdapters(config=self.decoder, params=self.decoder_params)

    def _using(self, kept: KeptAdapters, name: str | None) -> "Model":
        kept, config, params = kept.use(name)
        return replace(self, kept=kept)._spread(config, params)

    def __call__(self, tokens: ArrayLike) -> Float[Array, "B S V"]:
        """Float32 logits of int[B, S] token ids.

        Raises ValueError for another shape or dtype, ids outside the vocabulary, or parameters that are not
        the model's.
        """
        if not isinstance(tokens, jax.core.Tracer):
            try:
                host = np.asarray(tokens)
            except ValueError as error:
                raise ValueError(f"tokens must be int[B, S], got {shown(tokens)}") from error
            if host.ndim != 2 or not np.issubdtype(host.dtype, np.integer) or not host.size:
                raise ValueError(f"tokens must be int[B, S], got {host.dtype}{list(host.shape)}")
            tokens = encode_prompts(host, None, self.config.vocab_size).tokens
        check_params(self.config.spec(), self.params)
        if isinstance(tokens, jax.core.Tracer):  # the mesh is that of the program around
            return _forward(self.params, tokens, config=self.config)
        with in_use(self.mesh):
            return _forward(self.params, jnp.asarray(tokens), config=self.config)

    def generate(
        self,
        prompts: Prompts,
        max_new_tokens: int = 64,
        strategy: Strategy | None = None,
        *,
        stop_tokens: int | Sequence[int] | None = None,
        stop_strings: str | Sequence[str] | None = None,
        seed: int = 0,
        capacity: int | None = None,
        history: History | None = None,
    ) -> Generation:
        """Continues each prompt, as one compiled program per batch size, bucket and strategy type.

        Args:
            prompts: a text, texts, an integer array [B, S], or rows of token ids of any lengths.
            max_new_tokens: tokens per row at most.
            strategy: the decoding method; by default `Autoregressive`, or `MaskedDiffusion` for models that
                were trained to fill in tokens, see `decoding.default.default_strategy`.
            stop_tokens: a row ends after any of them; by default the checkpoint's end-of-text tokens.
            stop_strings: a row ends after the token that completes one of them in the row's answer, whatever
                tokens it is spread over; by default the checkpoint's. Text ends before it, as in other
                engines, while `transformers` keeps it and also finds strings that begin in the prompt. A
                special token ends the row if its own text holds a string.
            seed: of the random draws. Rows are independent: row b's tokens depend on the seed, b and its
                prompt, not on the other rows.
            capacity: cache slots per row, exactly so many; by default a bucket that holds prompt and answer,
                whose programs serve others of about the same lengths.
            history: the beginnings of the prompts, as `prefill` has settled them; only the rest is read. It
                stays as it is, for other calls to go on from.

        Raises:
            ValueError: an empty prompt, ids outside the vocabulary, sizes below 1, beyond `capacity` or for
                which there is no memory, parameters that are not the model's.
        """
        began = time.perf_counter()
        strategy = self._strategy(strategy, max_new_tokens)
        ready = self._plan(
            prompts, max_new_tokens, strategy, stop_tokens, stop_strings, seed, capacity, history
        )
        with in_use(self.mesh):
            result = run(self.config, self.params, strategy, ready, self.runner)
        counters = {name: int(values.sum()) for name, values in result.counters.items()}
        calls = counters.get("calls", 0)
        stats = Stats(
            prompt_tokens=int(np.asarray(ready.request.lengths).sum()),
            new_tokens=int(result.lengths.sum()),
            steps=result.steps,
            capacity=ready.capacity,
            seconds=time.perf_counter() - began,
            counters=counters,
            per_call={name: n / calls for name, n in counters.items() if calls and name != "calls"},
        )
        text = None
        if self.tokenizer is not None:
            strings, hidden = self._stop_strings(stop_strings), self.generation.eos_token_ids
            text = [
                cut(self.tokenizer.decode(row[:n].tolist(), hidden=hidden), strings)
                for row, n in zip(result.tokens, result.lengths, strict=True)
            ]
        return Generation(
            tokens=result.tokens,
            lengths=result.lengths,
            text=text,
            stats=stats,
            log_probs=result.log_probs,
            drafts=result.drafts,
        )

    def prefill(
        self,
        prompts: Prompts,
        max_new_tokens: int = 64,
        *,
        capacity: int | None = None,
        layers: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> History:
        """Settles prompts without the last token of each, as a value that `generate` and `stream` go on from.

        It can be branched, moved to another mesh (`decoding.histories.moved`) and kept in files
        (`artefacts.histories`); recurrent states are part of it.

        Args:
            prompts: as for `generate`.
            max_new_tokens: how many tokens each row may grow by, further parts of its prompt included.
            capacity: cache slots per row, exactly so many; by default a bucket that holds both.
            layers: read the prompts in so many layers at a time, each of which is then read once, however
                long they are (see `decoding.layered_prefill`). By default in all, in windows of tokens.
            progress: called behind each group of layers with the number of layers done, and of all: a server
                can decode for others in it.

        Raises:
            ValueError: as `generate`; a model whose tokens see later ones or, with `layers`, that is not made
                of blocks; `progress` without `layers`.
        """
        check_params(self.config.spec(), self.params)
        check_causal(self.config)
        max_new_tokens, _, capacity = check_sizes(max_new_tokens, 0, capacity)
        rows = encode_prompts(prompts, self.tokenizer, self.config.vocab_size)
        if capacity is None:
            slots = prompt_bucket(rows.tokens.shape[1], PREFILL_WINDOW)
            capacity = capacity_bucket(slots, answer_bucket(max_new_tokens))
        if layers is not None:
            return self._prefill_by_layers(rows, capacity, layers, progress)
        if progress is not None:
            raise ValueError("progress is told of groups of layers; give layers, how many at a time")
        with in_use(self.mesh):
            return settle(self.config, self.params, rows, capacity=capacity, placement=self.placement)

    def _prefill_by_layers(
        self, rows: PromptBatch, capacity: int, layers: int, progress: Callable[[int, int], None] | None
    ) -> History:
        from jaxmodels.decoding.layered_prefill import settle_by_layers

        if not isinstance(self.config, BlockStack):
            raise ValueError(f"layers={layers}: a {type(self.config).__name__} is not made of blocks")
        count = len(self.config.blocks)
        groups = settle_by_layers(
            self.config, self.params, rows, capacity=capacity, layers=layers, placement=self.placement
        )
        settled = []
        for group in each_in_use(self.mesh, groups):
            settled.append(group)
            if progress is not None:
                progress(min(len(settled) * layers, count), count)
        history = settled[-1]
        assert history is not None
        return history

    def stream(
        self,
        prompt: Prompts,
        max_new_tokens: int = 64,
        strategy: Strategy | None = None,
        *,
        stop_tokens: int | Sequence[int] | None = None,
        stop_strings: str | Sequence[str] | None = None,
        seed: int = 0,
        capacity: int | None = None,
        history: History | None = None,
        chunk: int = 8,
    ) -> Iterator[Piece]:
        """Continues one prompt and yields text as it comes, each piece with the number of tokens so far.

        The texts of the pieces join to `generate`'s text; one may be empty, where its tokens do not make up a
        character yet or may be the beginning of a stop string. The steps run on the device in compiled chunks
        of `chunk` tokens; other arguments as for `generate`.

        Raises:
            ValueError: as `generate`, or more than one prompt, or a model without a tokenizer.
        """
        if self.tokenizer is None:
            raise ValueError("stream yields text, but this model has no tokenizer; use generate")
        strategy, chunk = self._strategy(strategy, max_new_tokens), whole("chunk", chunk, low=1)
        ready = self._plan(
            prompt, max_new_tokens, strategy, stop_tokens, stop_strings, seed, capacity, history
        )
        if ready.request.tokens.shape[0] != 1:
            raise ValueError(f"stream takes one prompt, got {ready.request.tokens.shape[0]}; use generate")
        steps = stream(self.config, self.params, strategy, ready, chunk, self.runner)
        results = each_in_use(self.mesh, steps)
        decoder = self.tokenizer.stream(hidden=self.generation.eos_token_ids)
        return stream_text(results, CutText(decoder, self._stop_strings(stop_strings)))

    def fill_mask(self, texts: Prompts, top_k: int = 5) -> list[FilledText]:
        """The best tokens for every mask of each text, with their probabilities, and the texts filled in.

        One forward pass, as one compiled program per batch size, bucket and `top_k`. Probabilities are over
        the whole vocabulary, and those of one mask do not depend on what the others are filled with.

        Args:
            texts: as `generate`'s prompts; a mask is written as the tokenizer writes it, such as ``[MASK]``.
            top_k: tokens per mask.

        Raises:
            ValueError: a model that was not trained to fill masks, a text without a mask or too long for the
                model's learned positions, `top_k` below 1 or beyond the vocabulary, parameters that are not
                the model's, or what `encode_prompts` refuses.
        """
        check_params(self.config.spec(), self.params)
        rows = encode_prompts(texts, self.tokenizer, self.config.vocab_size)
        with in_use(self.mesh):
            return fill_masks(self.decoder, self.decoder_params, rows, self.tokenizer, top_k)

    def recommended_strategy(self) -> Autoregressive:
        """Sequential decoding with the settings that the checkpoint recommends.

        A warning names the settings that it cannot obey, such as beam search.

        Raises:
            ValueError: a setting lies outside its range.
        """
        return recommended(self.generation)

    def _strategy(self, strategy: Strategy | None, max_new_tokens: int) -> Strategy:
        if strategy is None:
            strategy = default_strategy(self.config, check_sizes(max_new_tokens, 0, None)[0])
        strategy = check_strategy(strategy)
        # The others start without what drafts.
        if isinstance(strategy, Autoregressive) or not (
            hasattr(strategy, "draft") or hasattr(strategy, "depth")
        ):
            return strategy
        from jaxmodels.drafts import with_draft, with_modules

        return with_draft(with_modules(strategy, self), self.config)

    def _plan(
        self,
        prompts: Prompts,
        max_new_tokens: int,
        strategy: Strategy,
        stop_tokens: int | Sequence[int] | None,
        stop_strings: str | Sequence[str] | None,
        seed: int,
        capacity: int | None,
        history: History | None = None,
    ) -> Plan:
        check_params(self.config.spec(), self.params)
        max_new_tokens, seed, capacity = check_sizes(max_new_tokens, seed, capacity)
        given = None if stop_tokens is None else stop_ids(stop_tokens)
        stop = self.generation.eos_token_ids if given is None else given
        pad = self.generation.pad_token_id
        return plan(
            self.config,
            self.params,
            encode_prompts(prompts, self.tokenizer, self.config.vocab_size),
            strategy,
            max_new_tokens=max_new_tokens,
            stop_tokens=stop,
            stop_table=self._stop_table(self._stop_strings(stop_strings)),
            pad_token=pad if pad is not None else next(iter(stop), 0),
            seed=seed,
            capacity=capacity,
            runner=self.runner,
            placement=self.placement,
            history=history,
        )

    def _stop_strings(self, given: str | Sequence[str] | None) -> tuple[str, ...]:
        """The strings asked for, or the checkpoint's where there is a tokenizer that finds them."""
        if given is None:
            return () if self.tokenizer is None else self.generation.stop_strings
        strings = stop_texts(given)
        if strings and self.tokenizer is None:
            raise ValueError("stop_strings need a tokenizer, and this model has none; give stop_tokens")
        return strings

    def _stop_table(self, strings: tuple[str, ...]) -> np.ndarray | None:
        if not strings or self.tokenizer is None:
            return None
        ends = self.generation.eos_token_ids
        return stop_table_of(self.tokenizer, strings, ends, self.config.vocab_size)


@bounded_jit(static_argnames=("config",))
def _forward(params: Params, tokens: Array, *, config: LanguageModel) -> Array:
    return config.forward(params, tokens)
