"""Refuses configurations of models that no machine holds, before anything is built of them."""

from collections.abc import Mapping
from typing import Any

from jaxmodels.checks import shown
from jaxmodels.layers.spec import count_params
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.hf_config import ConfigError

# A thousand times the parameters of the largest models published.
MOST_PARAMETERS = 10**15


def check_size(config: Decoder, values: Mapping[str, Any]) -> None:
    """Counts the parameters of the model that `values` describe.

    Raises:
        ConfigError: the model has more than `MOST_PARAMETERS`; the message names its largest numbers.
    """
    total = count_params(config.spec())
    if total > MOST_PARAMETERS:
        sizes = {k: v for k, v in values.items() if isinstance(v, int) and not isinstance(v, bool)}
        largest = sorted(sizes, key=lambda name: -sizes[name])[:4]
        found = ", ".join(f"{name!r}: {shown(sizes[name])}" for name in largest)
        raise ConfigError(
            f"config of model_type {shown(values.get('model_type'))}: this is a model of {total:.2g} "
            f"parameters; at most {MOST_PARAMETERS:.0g} are read. Its largest numbers are {{{found}}}"
        )
