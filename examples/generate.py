"""Generate from a bundled model: greedy, sampled, several prompts at once, streamed."""

import jaxmodels as jm
from jaxmodels.decoding import Autoregressive, Sample


def main() -> None:
    model = jm.load("tiny-mamba2")

    out = model.generate(["def fibonacci(n):", "import os"], max_new_tokens=24)
    for text in out.text or []:
        print(repr(text))

    sampled = Autoregressive(sampler=Sample(temperature=0.8, top_k=40), repetition_penalty=1.1)
    for seed in range(2):
        print(repr(model.generate("class Stack:", 24, sampled, seed=seed).text))

    for piece in model.stream("def main():", 24):
        print(piece, end="", flush=True)
    print()


if __name__ == "__main__":
    main()
