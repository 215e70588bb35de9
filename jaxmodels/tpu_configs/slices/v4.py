"""TPU v4. The two TensorCores of a chip are one device, and names count TensorCores."""

from jaxmodels.tpu_configs.slices.slice import GIB, Chip, Slice

CHIP = Chip(
    generation="v4",
    devices=1,
    hbm_bytes=32 * GIB,
    usable_bytes=int(30.75 * GIB),
    bandwidth=1200e9,
    interconnect=300e9,
    peak_flops={"bfloat16": 275e12, "int8": 275e12},
    source="https://cloud.google.com/tpu/docs/v4",
)

SLICES = tuple(
    Slice(
        name=f"v4-{2 * chips}",
        chip=CHIP,
        topology=topology,
        hosts=chips // 4,
        accelerator=f"v4-{2 * chips}",
        machine="ct4p-hightpu-4t",
        runtime="tpu-ubuntu2204-base",
    )
    for chips, topology in ((4, "2x2x1"), (8, "2x2x2"), (16, "2x2x4"), (32, "2x4x4"), (64, "4x4x4"))
)
