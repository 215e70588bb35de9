"""Generate from a bundled model: greedy, sampled, several prompts at once, streamed."""

import jaxmodels as jm
from jaxmodels.decoding import Autoregressive, Sample
from jaxmodels.decoding.processors import NoRepeatNGram, RepetitionPenalty


def main() -> None:
    model = jm.load("tiny-mamba2")

    out = model.generate(["def fibonacci(n):", "import os"], max_new_tokens=24)
    for text in out.text or []:
        print(repr(text))

    penalties = (RepetitionPenalty(1.1), NoRepeatNGram(4))
    sampled = Autoregressive(sampler=Sample(temperature=0.8, top_k=40), processors=penalties)
    for seed in range(2):
        print(repr(model.generate("class Stack:", 24, sampled, seed=seed).text))

    for piece in model.stream("def main():", 24):
        print(piece.text, end="", flush=True)
    print()


if __name__ == "__main__":
    main()
