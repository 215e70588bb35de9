"""The contestants of the decoding benchmark: the same weights, the same prompt, batch 1, greedy."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from flax import nnx
from jaxtyping import Array, Float, Int

import jaxmodels as jm
from benchmarks.common import cores, seconds
from jaxmodels.decoding import Autoregressive, driver
from jaxmodels.decoding.generation import Plan, plan
from jaxmodels.decoding.prompts import PromptBatch


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Seconds of a prefill whose head runs on the last token alone, of one with all logits, and per decoded
    token."""

    prefill_last: float
    prefill_all: float
    decode: float


class Contestant(Protocol):
    """`clocks` names its measurements, each of which gives the seconds of one run and is warm; `speed` makes
    the figures of their medians."""

    def logits(self) -> np.ndarray:
        """f32[V] after the whole prompt."""

    def greedy(self, count: int) -> list[int]:
        """The first `count` tokens of its own greedy decoding."""

    def clocks(self) -> Mapping[str, Callable[[], float]]: ...

    def speed(self, medians: Mapping[str, float]) -> Speed: ...


@dataclass(frozen=True)
class JaxModels:
    """This package: the whole of `generate` as one program; a step is (t(new) - t(1)) / (new - 1)."""

    model: jm.Model
    prompt: np.ndarray
    new: int

    def logits(self) -> np.ndarray:
        return np.asarray(self.model(self.prompt[None])[0, -1])

    def greedy(self, count: int) -> list[int]:
        return np.asarray(self._generate(self._plan(count)))[0, :count].tolist()

    def clocks(self) -> Mapping[str, Callable[[], float]]:
        tokens = jnp.asarray(self.prompt[None])
        jax.block_until_ready(self.model(tokens))
        self._generate(self._plan(self.new))

        def timed(new: int) -> float:
            ready = self._plan(new)
            jax.block_until_ready(ready)
            return seconds(lambda: self._generate(ready))

        return {
            "generate 1": lambda: timed(1),
            "generate all": lambda: timed(self.new),
            "forward": lambda: seconds(lambda: self.model(tokens)),
        }

    def speed(self, medians: Mapping[str, float]) -> Speed:
        decode = (medians["generate all"] - medians["generate 1"]) / (self.new - 1)
        return Speed(prefill_last=medians["generate 1"], prefill_all=medians["forward"], decode=decode)

    def _plan(self, new: int) -> Plan:
        """The program for `self.new` tokens, told to stop after `new`: that is data, not a shape."""
        prompt = PromptBatch(self.prompt[None], np.array([len(self.prompt)], np.int32))
        ready = plan(
            self.model.config, self.model.params, prompt, Autoregressive(),
            max_new_tokens=self.new, stop_tokens=[], pad_token=0, seed=0, capacity=None,
        )  # fmt: skip
        request = replace(ready.request, max_new=jnp.asarray(new, jnp.int32))
        return replace(ready, request=request)

    def _generate(self, ready: Plan) -> Array:
        model = self.model
        output, _ = driver.generate(
            model.params, ready.request, ready.cache, Autoregressive(),
            config=model.config, max_new=ready.new_slots,
        )  # fmt: skip
        return output.tokens


@dataclass(frozen=True)
class Transformers:
    """PyTorch: its bare forward calls in a loop, and its `generate`; the faster of the two counts."""

    model: Any
    prompt: np.ndarray
    new: int

    @classmethod
    def load(cls, directory: Path, prompt: np.ndarray, new: int) -> "Transformers":
        torch.set_num_threads(cores())
        model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
        return cls(model.eval(), prompt, new)

    @torch.inference_mode()
    def logits(self) -> np.ndarray:
        return self.model(self._tokens()).logits[0, -1].float().cpu().numpy()

    def greedy(self, count: int) -> list[int]:
        return self._generate(count)[0, len(self.prompt) :].tolist()

    def clocks(self) -> Mapping[str, Callable[[], float]]:
        self._generate(2)
        return {
            "forward, last logits": lambda: seconds(
                lambda: self._waited(self._forward(self._tokens(), None))
            ),
            "forward": lambda: seconds(self.logits),
            "steps in a bare loop": self._time_loop,
            "generate 1": lambda: seconds(lambda: self._waited(self._generate(1))),
            "generate all": lambda: seconds(lambda: self._waited(self._generate(self.new))),
        }

    def speed(self, medians: Mapping[str, float]) -> Speed:
        by_generate = medians["generate all"] - medians["generate 1"]
        return Speed(
            prefill_last=min(medians["forward, last logits"], medians["generate 1"]),
            prefill_all=medians["forward"],
            decode=min(by_generate, medians["steps in a bare loop"]) / (self.new - 1),
        )

    def _tokens(self) -> torch.Tensor:
        return torch.from_numpy(self.prompt[None].astype(np.int64)).to(self.model.device)

    @torch.inference_mode()
    def _forward(self, tokens: torch.Tensor, cache: Any) -> tuple[torch.Tensor, Any]:
        """The next token and the cache. Mamba-2's cache has another name than everyone else's."""
        name = "cache_params" if self.model.config.model_type == "mamba2" else "past_key_values"
        out = self.model(tokens, use_cache=True, logits_to_keep=1, **{name: cache})
        return out.logits[:, -1:].argmax(-1), out[name]

    def _waited(self, result: Any) -> Any:
        """`result` once an accelerator has computed it."""
        if self.model.device.type == "cuda":
            torch.cuda.synchronize()
        return result

    def _time_loop(self) -> float:
        token, cache = self._forward(self._tokens(), None)

        def steps() -> None:
            last = token
            for _ in range(self.new - 1):
                last, _ = self._forward(last, cache)
            self._waited(last)

        return seconds(steps)

    @torch.inference_mode()
    def _generate(self, count: int) -> torch.Tensor:
        tokens = self._tokens()
        mask = torch.ones_like(tokens)
        return self.model.generate(
            tokens, attention_mask=mask, max_new_tokens=count, min_new_tokens=count, do_sample=False
        )


@dataclass(frozen=True)
class Mamba2Jax:
    """The package `mamba2-jax`: its compiled `forward`, which gives all logits, with its cache.

    As it offers no prefill with the last logits only, one is put together here from its backbone.
    """

    model: Any
    prompt: np.ndarray
    new: int

    @classmethod
    def load(
        cls, shape: Mapping[str, Any], weights: Mapping[str, np.ndarray], prompt: np.ndarray, new: int
    ) -> "Mamba2Jax":
        import mamba2_jax  # here alone, so that where it is missing the others can be run

        config = mamba2_jax.Mamba2Config(
            vocab_size=shape["vocab_size"],
            hidden_size=shape["hidden_size"],
            state_size=shape["state_size"],
            head_dim=shape["head_dim"],
            chunk_size=shape["chunk_size"],
            num_hidden_layers=shape["num_hidden_layers"],
        )
        model = mamba2_jax.Mamba2ForCausalLM(config, rngs=nnx.Rngs(0))
        # It reads the names of the original checkpoints.
        named = {
            name.replace("backbone.embeddings.", "backbone.embedding."): w for name, w in weights.items()
        }
        mamba2_jax.load_pytorch_weights(model, named, strict=True)
        return cls(model, prompt, new)

    def logits(self) -> np.ndarray:
        return np.asarray(self._forward(self._tokens(), None)["logits"][0, -1])

    def greedy(self, count: int) -> list[int]:
        out, tokens = self._forward(self._tokens(), None), []
        for _ in range(count):
            token = out["logits"][:, -1:].argmax(-1)
            tokens.append(int(token[0, 0]))
            out = self._forward(token, out["cache"])
        return tokens

    def clocks(self) -> Mapping[str, Callable[[], float]]:
        tokens = self._tokens()
        prefilled = self._forward(tokens, None)
        first = prefilled["logits"][:, -1:].argmax(-1)
        jax.block_until_ready((_last_token(self.model, tokens), self._forward(first, prefilled["cache"])))

        def decode() -> float:
            def steps() -> Array:
                token, cache = first, prefilled["cache"]
                for _ in range(self.new - 1):
                    out = self._forward(token, cache)
                    token, cache = out["logits"][:, -1:].argmax(-1), out["cache"]
                return token

            return seconds(steps)

        return {
            "forward, last logits": lambda: seconds(lambda: _last_token(self.model, tokens)),
            "forward": lambda: seconds(lambda: self._forward(tokens, None)["logits"]),
            "steps": decode,
        }

    def speed(self, medians: Mapping[str, float]) -> Speed:
        return Speed(
            prefill_last=medians["forward, last logits"],
            prefill_all=medians["forward"],
            decode=medians["steps"] / (self.new - 1),
        )

    def _tokens(self) -> Int[Array, "1 S"]:
        return jnp.asarray(self.prompt[None])

    def _forward(self, tokens: Array, cache: Any) -> dict[str, Any]:
        import mamba2_jax

        return mamba2_jax.forward(self.model, tokens, cache=cache)


@jax.jit
def _last_token(model: Any, tokens: Array) -> tuple[Int[Array, "1"], Any]:
    out = model.backbone(input_ids=tokens)
    logits: Float[Array, "1 V"] = out["last_hidden_state"][:, -1] @ model.backbone.embedder.embedding[:].T
    return logits.argmax(-1), out["cache"]
