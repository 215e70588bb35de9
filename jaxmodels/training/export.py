"""A trained run as a checkpoint that `jaxmodels.load` and `transformers` read."""

from pathlib import Path

from jax.typing import DTypeLike

from jaxmodels.checkpoints.arguments import floating_dtype
from jaxmodels.checkpoints.depth_policies import save_depth
from jaxmodels.checkpoints.generation_config import GenerationDefaults
from jaxmodels.checkpoints.ranges import check_range
from jaxmodels.checkpoints.tokenizer import Tokenizer
from jaxmodels.io import save
from jaxmodels.layers.spec import Params, param_dtype, unflatten, walk
from jaxmodels.model import Model
from jaxmodels.models.config_keys import INERT_KEYS
from jaxmodels.models.families import config_from_hf
from jaxmodels.models.scanned import ScannedDecoder
from jaxmodels.training.data import end_of_text_id
from jaxmodels.training.loop import Run, load_run
from jaxmodels.training.on_mesh import is_first
from jaxmodels.training.recursive_decoder import RecursiveDecoder

# Beside the weights of a model that is decoded by a policy of depth.
DEPTH_FOLDER = "depth"
_NOT_KEPT = ("model_type", "architectures", "dtype", "torch_dtype")  # written from the model itself


def export_run(run_dir: str | Path, destination: str | Path, dtype: DTypeLike = "bfloat16") -> Model:
    """Writes the newest checkpoint of a run as a Hugging Face directory, and gives the model written.

    The router of a model that was trained with recursions is written to the folder `DEPTH_FOLDER` of that
    directory, for `jaxmodels.load_depth`: the model is to be decoded with it.

    Args:
        run_dir: as given to `train`; the run need not be finished.
        destination: the directory, replaced as a whole.
        dtype: of the parameters written; those whose spec pins a dtype keep that one.

    Raises:
        FileNotFoundError: there is no run or no checkpoint.
        CheckpointError: `destination` cannot be written, or numbers are beyond the range of `dtype`.
        ValueError: the recipe's model is none of the zoo, its tokenizer lacks `<|endoftext|>`, or `dtype` is
            not one that models compute with.
    """
    dtype = floating_dtype("dtype", dtype)
    run = load_run(run_dir)
    config = config_from_hf(dict(run.recipe.model))
    end_of_text = end_of_text_id(run.tokenizer)
    arrays = dict(walk(_of_decoder(run)))
    for path, param in walk(config.spec()):
        check_range(path, arrays[path], param_dtype(param, dtype))
    spec = config.spec()
    params = unflatten({path: arrays[path].astype(param_dtype(p, dtype)) for path, p in walk(spec)}, spec)
    ids = {f"{role}_token_id": end_of_text for role in ("bos", "eos", "pad")}
    kept = {key: value for key, value in run.recipe.model.items() if key in INERT_KEYS - set(_NOT_KEPT)}
    model = Model(
        config=config,
        params=params,
        tokenizer=Tokenizer.load(Path(run_dir) / "tokenizer"),
        generation=GenerationDefaults(
            eos_token_ids=(end_of_text,), bos_token_id=end_of_text, pad_token_id=end_of_text
        ),
        metadata={**kept, **ids},
    )
    if is_first():
        save(model, destination)
    if is_first() and isinstance(run.model, RecursiveDecoder):
        policy = run.model.policy({"router": run.params["router"].astype(dtype)})
        save_depth(policy, Path(destination) / DEPTH_FOLDER, model)
    return model


def _of_decoder(run: Run) -> Params:
    """What a run has trained of the decoder that its recipe describes."""
    if isinstance(run.model, RecursiveDecoder):
        return run.params["decoder"]
    return run.model.unstack(run.params) if isinstance(run.model, ScannedDecoder) else run.params
