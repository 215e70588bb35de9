"""TPU v5e. One TensorCore per chip; up to 8 chips share a host, and larger slices have 4 on each."""

from jaxmodels.tpu_configs.slices.slice import GIB, Chip, Slice

CHIP = Chip(
    generation="v5e",
    devices=1,
    hbm_bytes=16 * GIB,
    usable_bytes=int(15.75 * GIB),
    bandwidth=819e9,
    interconnect=400e9,
    peak_flops={"bfloat16": 197e12, "int8": 393e12},
    source="https://cloud.google.com/tpu/docs/v5e",
)

SLICES = tuple(
    Slice(
        name=f"v5e-{chips}",
        chip=CHIP,
        topology=topology,
        hosts=1 if chips <= 8 else chips // 4,
        accelerator=f"v5litepod-{chips}",
        machine=f"ct5lp-hightpu-{chips if chips <= 8 else 4}t",
        runtime="v2-alpha-tpuv5-lite",
    )
    for chips, topology in (
        (1, "1x1"), (4, "2x2"), (8, "2x4"), (16, "4x4"), (32, "4x8"), (64, "8x8"), (128, "8x16"),
        (256, "16x16"),
    )
)  # fmt: skip
