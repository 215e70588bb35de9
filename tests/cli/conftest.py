"""A tiny model with a tokenizer on the disk, and the command line in this process."""

import dataclasses
from pathlib import Path

import pytest
from typer.testing import CliRunner

import jaxmodels as jm
from jaxmodels.checkpoints import GenerationDefaults, Tokenizer
from jaxmodels.cli import app
from jaxmodels.training.tokenizer import END_OF_TEXT, train_tokenizer

CONFIG = {
    "model_type": "mamba2",
    "vocab_size": 264,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_heads": 4,
    "head_dim": 8,
    "state_size": 8,
    "n_groups": 1,
    "tie_word_embeddings": True,
}
CHAT_TEMPLATE = "{% for m in messages %}{{ m.role[0] }}: {{ m.content }}\n{% endfor %}a:"


@pytest.fixture(scope="session")
def config_values() -> dict:
    """The `config.json` of the tiny model."""
    return CONFIG


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory) -> Path:
    """A Mamba-2 in float32 whose recommended settings sample."""
    tokenizer = train_tokenizer(["the cat sat on the mat, that is that"] * 3, CONFIG["vocab_size"])
    model = dataclasses.replace(
        jm.init(jm.config_from_hf(CONFIG), seed=3),
        tokenizer=Tokenizer.from_backend(
            tokenizer, special_tokens={"eos_token": END_OF_TEXT}, chat_template=CHAT_TEMPLATE
        ),
        generation=GenerationDefaults(
            eos_token_ids=(0,), do_sample=True, temperature=0.7, top_k=5, repetition_penalty=1.1
        ),
    )
    path = tmp_path_factory.mktemp("models") / "tiny"
    jm.save(model, path)
    return path


@pytest.fixture
def run():
    """Runs `jaxmodels` with arguments, and expects an exit code, 0 unless given."""

    def call(*arguments: object, code: int = 0, stdin: str | bytes | None = None):
        result = CliRunner().invoke(app, [str(one) for one in arguments], input=stdin)
        assert result.exit_code == code, (result.output, result.exception)
        return result

    return call


@pytest.fixture(scope="session")
def adapter_dir(model_dir, tmp_path_factory) -> Path:
    """A LoRA adapter for the tiny model that changes what it says."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    directory = tmp_path_factory.mktemp("adapter")
    settings = LoraConfig(r=2, lora_alpha=64, target_modules=["in_proj"], init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(model_dir), settings).save_pretrained(directory)
    return directory
