import dataclasses
import json

import pytest

from jaxmodels.layers.spec import count_params
from jaxmodels.models.families import config_from_hf
from jaxmodels.training.loop import model_of
from jaxmodels.training.objectives.block_diffusion import BlockDiffusion
from jaxmodels.training.objectives.certainty_forcing import CertaintyForcing
from jaxmodels.training.objectives.coupled import Coupled
from jaxmodels.training.objectives.masked_diffusion import MaskedDiffusion
from jaxmodels.training.objectives.maskgit import MaskGIT
from jaxmodels.training.objectives.next_token import NextToken
from jaxmodels.training.objectives.recursions import Recursions
from jaxmodels.training.optimizer import AdamW, Muon, WarmupCosine, WarmupStableDecay
from jaxmodels.training.recipe import (
    Recipe,
    list_recipes,
    load_recipe,
    recipe_from_dict,
    recipe_to_dict,
    save_recipe,
)

VALUES = {
    "model": {"model_type": "toy", "vocab_size": 300},
    "train_files": ["a/*.py"],
    "held_out_files": ["b.py", "c.py"],
    "schedule": {"kind": "warmup_cosine", "peak": 1e-3, "warmup_steps": 2, "total_steps": 9},
    "optimizer": {"weight_decay": 0.2},
}


def test_read_and_written_back(tmp_path):
    recipe = recipe_from_dict(VALUES | {"z_loss": 1})
    assert recipe == Recipe(
        model=VALUES["model"],
        train_files=("a/*.py",),
        held_out_files=("b.py", "c.py"),
        schedule=WarmupCosine(peak=1e-3, warmup_steps=2, total_steps=9),
        optimizer=AdamW(weight_decay=0.2),
        objective=NextToken(z_loss=1),
    )
    assert recipe.steps == 9
    stable = WarmupStableDecay(peak=1e-3, warmup_steps=2, decay_steps=3, total_steps=9)
    muon = dataclasses.replace(recipe, optimizer=Muon(beta=0.9), start_from="tiny-qwen3")
    masked = [
        dataclasses.replace(recipe, objective=objective, adapt_from="tiny-qwen3")
        for objective in (
            MaskedDiffusion(masking="counted"),
            BlockDiffusion(block=4),
            CertaintyForcing(),
            Coupled(),
            MaskGIT(),
            Recursions(shared=2),
        )
    ]
    for original in (recipe, dataclasses.replace(recipe, schedule=stable), muon, *masked):
        save_recipe(original, tmp_path / "recipe.json")
        assert load_recipe(tmp_path / "recipe.json") == original
        assert recipe_from_dict(recipe_to_dict(original)) == original


@pytest.mark.parametrize("name", list_recipes())
def test_the_bundled_recipes_are_small_models(name):
    recipe = load_recipe(name)
    config = config_from_hf(dict(recipe.model))
    assert 2 * count_params(config.spec()) < 13e6  # bytes of a bfloat16 checkpoint
    recipe.objective.check(model_of(recipe))
    own = {"tiny_mor": 1024}  # that share no tokenizer
    assert config.vocab_size == recipe.model["vocab_size"]
    assert config.vocab_size == own.get(name, 4096 if config.filling is None else 4104)


@pytest.mark.parametrize("name", [name for name in list_recipes() if "llada" not in name])
def test_the_bundled_recipes_are_models_of_transformers(name):
    recipe = load_recipe(name)
    transformers = pytest.importorskip("transformers")
    reference = transformers.AutoConfig.for_model(**recipe.model).to_dict()
    known = set(reference) | {"rope_parameters"}
    assert set(recipe.model) <= known
    assert {key: reference[key] for key in ("vocab_size", "hidden_size", "tie_word_embeddings")} == {
        key: recipe.model[key] for key in ("vocab_size", "hidden_size", "tie_word_embeddings")
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 1}, r"learning_rate is not known; accepted are .*batch_size"),
        ({"schedule": {"kind": "linear"}}, r"schedule\.kind must be one of .*'linear'"),
        (
            {"schedule": {"kind": "warmup_cosine", "peak": 1.0, "warmup_steps": 1}},
            r"schedule\.total_steps is missing",
        ),
        ({"schedule": 3}, "schedule must be .*got 3"),
        ({"optimizer": {"beta": 1}}, r"optimizer\.beta is not known"),
        ({"optimizer": {"kind": "sgd"}}, r"optimizer\.kind must be one of \['adamw', 'muon'\], got 'sgd'"),
        ({"optimizer": {"kind": "muon", "momentum": 1}}, r"optimizer\.momentum is not known"),
        ({"objective": {"kind": "gan"}}, r"objective\.kind must be one of .*'masked_diffusion'.*got 'gan'"),
        ({"objective": {"kind": "block_diffusion"}}, r"objective\.block is missing"),
        ({"objective": {"kind": "maskgit", "class_dropout": 2}}, "class_dropout must be"),
        ({"objective": 3}, "objective must be an object, got 3"),
        ({"start_from": "a", "adapt_from": "b"}, "start_from='a' and adapt_from='b': a run begins with one"),
        ({"start_from": 3}, "start_from must be a text or null, got 3"),
        ({"optimizer": {"b1": "0.9"}}, r"optimizer\.b1 must be a number, got '0\.9'"),
        ({"schedule": {"kind": ["linear"]}}, r"schedule\.kind must be one of .*got \['linear'\]"),
        ({"schedule": {**VALUES["schedule"], "total_steps": 10**20}}, "total_steps must be a whole number"),
        ({"train_files": [None]}, r"train_files must be a list of texts, got \(None,\)"),
        ({"model": None}, "model must be an object, got None"),
        ({"tokenizer": 3}, "tokenizer must be a text or null, got 3"),
        ({"batch_size": 10**20}, "batch_size must be a whole number >= 1 and <= 2147483647, got 1000"),
        ({"seed": -1}, "seed must be a whole number >= 0 .*, got -1"),
        ({"seed": 2**70}, "seed must be a whole number >= 0 .*, got 1180"),
        ({"z_loss": float("nan")}, "z_loss must be a finite number >= 0, got nan"),
        ({"router_losses": {"z": float("nan")}}, "RouterLosses: z must be a finite number >= 0, got nan"),
        ({"evaluation_windows": 10**15}, "evaluation_windows must be a whole number >= 1 and <="),
        ({"train_files": "a.py"}, "train_files must be .*got 'a.py'"),
        ({"train_files": []}, "train_files is empty"),
        ({"batch_size": True}, "batch_size must be a whole number, got True"),
        ({"batch_size": 0}, "batch_size must be a whole number >= 1 .*, got 0"),
        ({"batch_size": 3, "accumulate": 2}, "batch_size=3 is not divisible by accumulate=2"),
        ({"sequence_length": 1}, "sequence_length must be a whole number >= 2 .*, got 1"),
        ({"z_loss": -1.0}, "z_loss"),
        ({"model": {"model_type": "toy"}}, "vocab_size, got None"),
    ],
)
def test_bad_values_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        recipe_from_dict(VALUES | change)


def test_bad_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="recipe: model is missing"):
        recipe_from_dict({k: v for k, v in VALUES.items() if k != "model"})
    with pytest.raises(FileNotFoundError, match=r"'nothing'.*tiny_qwen3"):
        load_recipe("nothing")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match=r"broken\.json.*not JSON"):
        load_recipe(tmp_path / "broken.json")
    (tmp_path / "bad.json").write_text(json.dumps(VALUES | {"batch_size": 0}))
    with pytest.raises(ValueError, match=r"bad\.json': Recipe: batch_size must be"):
        load_recipe(tmp_path / "bad.json")
    (tmp_path / "list.json").write_text(json.dumps([1]))
    with pytest.raises(ValueError, match="must hold a JSON object, got list"):
        load_recipe(tmp_path / "list.json")
