"""Traces of serving hold texts with their drafts, and are cut into windows."""

import numpy as np
import pytest

from jaxmodels.decoding.draft_record import DraftRecord
from jaxmodels.generated import Generation, Stats
from jaxmodels.training.draft_heads.traces import load_traces, save_traces, traces_of, windows_of

PROMPTS = [[5, 6, 7], [8]]
STATS = Stats(prompt_tokens=4, new_tokens=7, steps=3, capacity=16, seconds=0.0)


def generation(drafts=True):
    """Answers of four and three tokens; drafts of two tokens behind some of them."""
    drafted = np.asarray([[2, 0, 2, 0], [1, 2, 0, 0]], np.int32)
    record = DraftRecord(
        tokens=np.arange(16, dtype=np.int32).reshape(2, 4, 2) * (drafted > 0)[:, :, None],
        drafted=drafted,
        accepted=np.asarray([[1, 0, 0, 0], [0, 2, 0, 0]], np.int32),
    )
    return Generation(
        tokens=np.asarray([[10, 11, 12, 13], [20, 21, 22, 9]], np.int32),
        lengths=np.asarray([4, 3], np.int32),
        text=None,
        stats=STATS,
        drafts=record if drafts else None,
    )


def test_drafts_stand_behind_prompts_and_in_files(tmp_path):
    save_traces(traces_of(PROMPTS, generation()), tmp_path / "traces.npz")
    traces = load_traces(tmp_path / "traces.npz", vocab_size=24)
    assert traces.tokens.tolist() == [[5, 6, 7, 10, 11, 12, 13], [8, 20, 21, 22, 0, 0, 0]]
    assert (traces.lengths.tolist(), traces.prompts.tolist()) == ([7, 4], [3, 1])
    assert traces.drafts.drafted.tolist() == [[0, 0, 0, 2, 0, 2, 0], [0, 1, 2, 0, 0, 0, 0]]
    assert traces.drafts.tokens[0, [3, 5]].tolist() == [[0, 1], [4, 5]]
    assert traces.drafts.accepted[1].tolist() == [0, 0, 2, 0, 0, 0, 0]


def test_windows_hold_the_answers_weights_and_drafts():
    windows = windows_of([traces_of(PROMPTS, generation())], 4)
    assert windows.tokens.tolist() == [[5, 6, 7, 10], [11, 12, 13, 0], [8, 20, 21, 22]]
    assert windows.weights.tolist() == [[0, 0, 0, 1], [1, 1, 1, 0], [0, 1, 1, 1]]
    assert windows.drafts.drafted.tolist() == [[0, 0, 0, 2], [0, 2, 0, 0], [0, 1, 2, 0]]
    assert windows.drafts.tokens[1, 1].tolist() == [4, 5]


def test_generations_without_a_record_are_refused():
    with pytest.raises(ValueError, match=r"no drafts were recorded; generate with Speculative\(record"):
        traces_of(PROMPTS, generation(drafts=False))
    with pytest.raises(ValueError, match="prompts: 1 of them, and the generation has 2"):
        traces_of(PROMPTS[:1], generation())


def test_files_that_hold_no_traces_are_refused(tmp_path):
    file = tmp_path / "traces.npz"
    file.write_text("text")
    with pytest.raises(ValueError, match=r"traces.npz' holds no traces, as save_traces writes them"):
        load_traces(file, 24)
    np.savez(file, tokens=np.zeros((2, 3), np.int32))
    with pytest.raises(ValueError, match="holds no traces"):
        load_traces(file, 24)
    save_traces(traces_of(PROMPTS, generation()), file)
    with pytest.raises(ValueError, match="tokens go from 0 to 22, and the vocabulary from 0 to 15"):
        load_traces(file, 16)
    arrays = dict(np.load(file))
    np.savez(file, **{**arrays, "drafted": arrays["drafted"][:1]})
    with pytest.raises(ValueError, match="drafted must be integers of 2 axes, as many rows as tokens"):
        load_traces(file, 24)
