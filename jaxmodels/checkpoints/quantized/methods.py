"""The methods of quantisation that are read, by the name that ``config.json`` has for them."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from jaxmodels.checkpoints.quantized.awq import read_awq
from jaxmodels.checkpoints.quantized.bitsandbytes import read_bitsandbytes
from jaxmodels.checkpoints.quantized.compressed_tensors import read_compressed_tensors
from jaxmodels.checkpoints.quantized.format import Format
from jaxmodels.checkpoints.quantized.gptq import read_gptq
from jaxmodels.checkpoints.quantized.modelopt import read_modelopt
from jaxmodels.checkpoints.quantized.mxfp4 import read_mxfp4
from jaxmodels.checkpoints.quantized.scaled import read_fbgemm, read_fp8

# Makes the format from its settings and the dtype of the model.
ReadSettings: TypeAlias = Callable[[Mapping[str, Any], str], Format]

METHODS: Mapping[str, ReadSettings] = {
    "awq": read_awq,
    "bitsandbytes": read_bitsandbytes,
    "compressed-tensors": read_compressed_tensors,
    "fbgemm_fp8": read_fbgemm,
    "fp8": read_fp8,
    "gptq": read_gptq,
    "modelopt": read_modelopt,
    "mxfp4": read_mxfp4,
}
