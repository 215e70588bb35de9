"""Block diffusion step for step with diffusers' `LLaDA2Pipeline` around a Llama that sees by blocks."""

import numpy as np
import pytest
import torch
from diffusers import BlockRefinementScheduler, LLaDA2Pipeline
from masked_loops import MASK, canvases, models, prompts

from jaxmodels.decoding import MaskedDiffusion
from jaxmodels.decoding.masked import FinishedBlocks, FixedBlocks, Recompute
from jaxmodels.decoding.masked.remask import TokenEdits
from jaxmodels.decoding.masked.unmask import DynamicThreshold

BLOCK, NEW = 8, 18


def pipeline_steps(peer, prompt, **options):
    """Prompt and answer behind each call of the model."""
    pipeline = LLaDA2Pipeline(peer, BlockRefinementScheduler(block_length=BLOCK), tokenizer=None)
    pipeline.set_progress_bar_config(disable=True)
    steps = []

    def record(_, step, timestep, kwargs):
        row = kwargs["block_x"][0].tolist()
        steps.append(row + [MASK] * (len(prompt) + NEW - len(row)))
        return {}

    pipeline(
        input_ids=torch.tensor(prompt)[None],
        gen_length=NEW,
        mask_token_id=MASK,
        eos_early_stop=False,
        output_type="seq",
        callback_on_step_end=record,
        **options,
    )
    return steps


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize(
    ("steps", "threshold", "editing", "post", "cache"),
    [
        (8, 0.5, None, 16, Recompute()),
        (8, 0.2, 0.3, 3, FinishedBlocks()),
        pytest.param(3, 0.9, None, 16, FinishedBlocks(), marks=pytest.mark.sweep),
        pytest.param(8, 0.3, 0.05, 2, Recompute(), marks=pytest.mark.sweep),
    ],
    ids=["one by one", "edits", "three steps", "more edits"],
)
def test_steps_are_those_of_the_pipeline(steps, threshold, editing, post, cache):
    peer, config, params = models(block=BLOCK)
    edits = 0
    for prompt in prompts(6, 14):
        theirs = pipeline_steps(
            peer,
            prompt,
            # 16 steps fill in one place each, as 8 do. A block that takes all its steps is not looked at
            # again by the pipeline, even if it edits.
            num_inference_steps=16 if steps == 8 else steps,
            threshold=threshold,
            editing_threshold=editing,
            max_post_steps=post,
        )
        strategy = MaskedDiffusion(
            blocks=FixedBlocks(BLOCK),
            steps=steps,
            unmask=DynamicThreshold(threshold),
            remask=None if editing is None else TokenEdits(threshold=editing, passes=post + 1),
            cache=cache,
        )
        ours, answer = canvases(config, params, strategy, prompt, NEW)
        if editing is None:  # they look once more at every block that is full, and change nothing
            theirs = [step for before, step in zip([None, *theirs], theirs, strict=False) if step != before]
        assert ours == theirs
        assert answer == theirs[-1][len(prompt) :]
        known = np.asarray([prompt.tolist() + [MASK] * NEW, *ours])
        edits += ((known[1:] != known[:-1]) & (known[:-1] != MASK)).sum()
    assert (edits > 0) == (editing is not None)
