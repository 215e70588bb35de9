"""A decoding method of your own, against `peek` and `commit` alone: greedily, with one draft token per step.

Each round takes the token before the last as its draft of the next one, scores the newest token and the draft
in one window, and keeps the draft only if the model agrees. The result is plain greedy decoding, with fewer
model calls where text repeats; nothing below knows whether the model is a Transformer or a state space model.
"""

import functools

import jax
import jax.numpy as jnp

import jaxmodels as jm


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def round_(config, params, cache, window):
    """Scores [token, draft]; gives the two argmaxes, whether the draft held, and the settled cache."""
    scored, pending = config.peek(params, window, cache)
    best = jnp.argmax(scored.logits, axis=-1)
    held = best[:, 0] == window[:, 1]
    return best, held, config.commit(pending, 1 + held.astype(jnp.int32))


def generate(model: jm.Model, prompt: list[int], new_tokens: int) -> tuple[list[int], int]:
    """The greedy continuation of `prompt`, and the model calls it took."""
    config, params = model.config, model.params
    cache = config.init_cache(1, len(prompt) + new_tokens + 2)
    scored, pending = jax.jit(config.peek)(params, jnp.asarray([prompt]), cache)
    cache = config.commit(pending)
    tokens, calls = [*prompt, int(scored.logits[0, -1].argmax())], 1
    while len(tokens) < len(prompt) + new_tokens:
        draft = tokens[-2]
        best, held, cache = round_(config, params, cache, jnp.asarray([[tokens[-1], draft]]))
        tokens.append(int(best[0, 0]))
        if held[0]:
            tokens.append(int(best[0, 1]))
        calls += 1
    return tokens[len(prompt) : len(prompt) + new_tokens], calls


def main() -> None:
    for name in ("tiny-mamba2", "tiny-qwen3"):
        model = jm.load(name)
        assert model.tokenizer is not None
        prompt = model.tokenizer.encode("def add(a, b):\n    return")
        tokens, calls = generate(model, prompt, 24)
        plain = model.generate(prompt, 24, stop_tokens=[])
        assert tokens == plain.tokens[0].tolist()
        print(f"{name}: {len(tokens)} tokens in {calls} calls: {model.tokenizer.decode(tokens)!r}")


if __name__ == "__main__":
    main()
