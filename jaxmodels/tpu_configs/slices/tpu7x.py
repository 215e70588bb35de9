"""TPU7x (Ironwood). Each of a chip's two TensorCores is a device with half of its memory; names count them.

Google Cloud offers it by Kubernetes alone.
"""

from jaxmodels.tpu_configs.slices.slice import GIB, Chip, Slice

CHIP = Chip(
    generation="tpu7x",
    devices=2,
    hbm_bytes=192 * GIB,
    usable_bytes=int(94.75 * GIB),
    bandwidth=7380e9,
    interconnect=1200e9,
    peak_flops={"bfloat16": 2307e12, "float8_e4m3fn": 4614e12},
    source="https://cloud.google.com/tpu/docs/tpu7x",
)

SLICES = tuple(
    Slice(
        name=f"tpu7x-{2 * chips}",
        chip=CHIP,
        topology=topology,
        hosts=max(1, chips // 4),
        accelerator=None,
        machine=f"tpu7x-standard-{min(chips, 4)}t",
        runtime=None,
    )
    for chips, topology in (
        (1, "1x1x1"), (4, "2x2x1"), (8, "2x2x2"), (16, "2x2x4"), (32, "2x4x4"), (64, "4x4x4"),
    )
)  # fmt: skip
