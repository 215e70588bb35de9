"""Generation defaults: what is read, what falls back, what is written, what is refused."""

import json
from pathlib import Path

import pytest

from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.generation_config import GenerationDefaults


def write(directory: Path, generation: object = None, config: object = None) -> Path:
    for name, content in (("generation_config.json", generation), ("config.json", config)):
        if content is not None:
            (directory / name).write_text(json.dumps(content))
    return directory


def test_without_files_everything_is_open(tmp_path: Path) -> None:
    defaults = GenerationDefaults.load(tmp_path)
    assert defaults == GenerationDefaults()
    assert defaults.to_dict() == {}


def test_reads_every_field_and_keeps_the_rest(tmp_path: Path) -> None:
    content = {
        "eos_token_id": [7, 9],
        "bos_token_id": 0,
        "pad_token_id": 3,
        "temperature": 0.6,
        "top_k": 20,
        "top_p": 1,
        "min_p": 0.05,
        "repetition_penalty": 1.1,
        "do_sample": True,
        "max_new_tokens": 64,
        "max_length": 4096,
        "transformers_version": "4.51.0",
        "suppress_tokens": [1, 2],
        "begin_suppress_tokens": [5],
        "bad_words_ids": [[3], [4, 5]],
        "sequence_bias": [[[1, 2], -0.5]],
        "no_repeat_ngram_size": 3,
        "typical_p": 0.9,
        "epsilon_cutoff": 0.001,
        "eta_cutoff": 0.002,
        "frequency_penalty": 0.1,
        "presence_penalty": -0.1,
        "min_length": 4,
        "min_new_tokens": 2,
        "forced_bos_token_id": 1,
        "forced_eos_token_id": [1, 2],
        "stop_strings": ["\n", "end"],
        "cache_implementation": None,
    }
    defaults = GenerationDefaults.load(write(tmp_path, content))
    assert defaults.eos_token_ids == (7, 9)
    assert (defaults.bos_token_id, defaults.pad_token_id, defaults.top_k) == (0, 3, 20)
    assert (defaults.temperature, defaults.top_p, defaults.min_p) == (0.6, 1, 0.05)
    assert (defaults.repetition_penalty, defaults.do_sample) == (1.1, True)
    assert (defaults.max_new_tokens, defaults.max_length) == (64, 4096)
    assert (defaults.suppress_tokens, defaults.begin_suppress_tokens) == ((1, 2), (5,))
    assert (defaults.bad_words_ids, defaults.sequence_bias) == (((3,), (4, 5)), (((1, 2), -0.5),))
    assert (defaults.forced_eos_token_id, defaults.stop_strings) == ((1, 2), ("\n", "end"))
    assert defaults.extra == {"transformers_version": "4.51.0", "cache_implementation": None}
    assert defaults.to_dict() == content
    again = tmp_path / "again"
    again.mkdir()
    defaults.save(again)
    assert GenerationDefaults.load(again) == defaults


def test_one_end_token_is_written_as_a_number(tmp_path: Path) -> None:
    defaults = GenerationDefaults.load(write(tmp_path, {"eos_token_id": 5}))
    assert defaults.eos_token_ids == (5,)
    assert defaults.to_dict() == {"eos_token_id": 5}


def test_token_ids_fall_back_to_the_model_config(tmp_path: Path) -> None:
    config = {"eos_token_id": [1, 2], "bos_token_id": 4, "pad_token_id": None, "hidden_size": 8, "top_k": 3}
    defaults = GenerationDefaults.load(write(tmp_path, config=config))
    assert defaults == GenerationDefaults(eos_token_ids=(1, 2), bos_token_id=4)
    defaults = GenerationDefaults.load(write(tmp_path, {"eos_token_id": None, "bos_token_id": 6, "x": 1}))
    assert defaults == GenerationDefaults(eos_token_ids=(1, 2), bos_token_id=6, extra={"x": 1})


def test_token_ids_of_a_nested_text_config(tmp_path: Path) -> None:
    config = {"text_config": {"eos_token_id": 1, "bos_token_id": 2}, "bos_token_id": 3}
    defaults = GenerationDefaults.load(write(tmp_path, config=config))
    assert defaults == GenerationDefaults(eos_token_ids=(1,), bos_token_id=3)


def test_transformers_reads_what_is_written(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    defaults = GenerationDefaults(
        eos_token_ids=(1, 2), temperature=0.7, top_k=5, do_sample=True, extra={"num_beams": 1}
    )
    defaults.save(tmp_path)
    reference = transformers.GenerationConfig.from_pretrained(tmp_path)
    assert (reference.eos_token_id, reference.temperature, reference.top_k) == ([1, 2], 0.7, 5)
    reference.save_pretrained(tmp_path)
    loaded = GenerationDefaults.load(tmp_path)
    assert (loaded.eos_token_ids, loaded.temperature, loaded.do_sample) == ((1, 2), 0.7, True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"eos_token_id": "</s>"}, "eos_token_id must be a whole number, got '</s>'"),
        ({"eos_token_id": [1, True]}, r"eos_token_id\[1\] must be a whole number, got True"),
        ({"top_k": 2.5}, r"top_k must be a whole number, got 2\.5"),
        ({"top_k": -1}, r"top_k must be a whole number >= 0"),
        ({"temperature": "hot"}, "temperature must be a number, got 'hot'"),
        ({"temperature": True}, "temperature must be a number, got True"),
        ({"temperature": float("nan")}, "temperature must be a finite number, got nan"),
        ({"do_sample": 1}, "do_sample must be true or false, got 1"),
        ({"suppress_tokens": [1.5]}, r"suppress_tokens\[0\] must be a whole number, got 1\.5"),
        ({"bad_words_ids": [1, 2]}, r"bad_words_ids\[0\] must be a list of token ids, got 1"),
        ({"bad_words_ids": [[1], []]}, r"bad_words_ids\[1\] must be a list of token ids, got \[\]"),
        ({"sequence_bias": [[1, 2]]}, r"sequence_bias\[0\]\[0\] must be a list of token ids, got 1"),
        ({"sequence_bias": [[[1], "x"]]}, r"sequence_bias\[0\]\[1\] must be a number, got 'x'"),
        ({"stop_strings": [""]}, r"stop_strings must be a text or a list of texts"),
        ([], "holds a JSON list"),
    ],
)
def test_refuses_wrong_types(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(CheckpointError, match=rf"generation_config\.json.*{message}"):
        GenerationDefaults.load(write(tmp_path, content))


def test_names_the_model_config_when_that_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"/config\.json: bos_token_id must be a whole number, got 'a'"):
        GenerationDefaults.load(write(tmp_path, config={"bos_token_id": "a"}))


def test_token_ids_that_the_model_never_meets_are_dropped_with_one_warning() -> None:
    defaults = GenerationDefaults(
        eos_token_ids=(0, 10, 9),
        bos_token_id=-1,
        pad_token_id=10,
        suppress_tokens=(1, 99),
        bad_words_ids=((3, 99), (3, 4)),
        sequence_bias=(((99,), 1.0), ((3,), 1.0)),
        forced_bos_token_id=10,
        top_k=99,
    )
    with pytest.warns(UserWarning, match="are ignored: ") as told:
        kept = defaults.within(10, "some/model")
    assert kept == GenerationDefaults(
        eos_token_ids=(0, 9),
        suppress_tokens=(1,),
        bad_words_ids=((3, 4),),
        sequence_bias=(((3,), 1.0),),
        top_k=99,
    )
    (message,) = [str(one.message) for one in told]
    assert message.startswith("some/model: token ids outside the vocabulary 0 to 9 are ignored: ")
    for named in ("bos_token_id -1", "pad_token_id 10", "eos_token_id 10", "suppress_tokens 99"):
        assert named in message


def test_token_ids_of_the_model_are_kept_without_a_word(recwarn: pytest.WarningsRecorder) -> None:
    defaults = GenerationDefaults(eos_token_ids=(0, 9), pad_token_id=3, bad_words_ids=((3, 4),))
    assert defaults.within(10, "some/model") == defaults
    assert not recwarn.list


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eos_token_ids": None}, "eos_token_ids must be a whole number, got None"),
        ({"eos_token_ids": ("a",)}, r"eos_token_ids\[0\] must be a whole number, got 'a'"),
        ({"eos_token_ids": (True,)}, r"eos_token_ids\[0\] must be a whole number, got True"),
        ({"pad_token_id": 1.5}, "pad_token_id must be a whole number, got 1.5"),
        ({"pad_token_id": 10**12}, "pad_token_id must be a whole number .*, got 1000000000000"),
        ({"do_sample": "yes"}, "do_sample must be true or false, got 'yes'"),
        ({"temperature": "hot"}, "temperature must be a number, got 'hot'"),
    ],
)
def test_settings_of_another_kind_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GenerationDefaults(**settings)


def test_one_token_and_one_text_become_several() -> None:
    assert GenerationDefaults(eos_token_ids=3, stop_strings="x") == GenerationDefaults(
        eos_token_ids=(3,), stop_strings=("x",)
    )
