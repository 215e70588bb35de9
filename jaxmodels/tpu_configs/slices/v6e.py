"""TPU v6e (Trillium). One TensorCore per chip; up to 8 chips share a host, larger slices have 4 on each."""

from jaxmodels.tpu_configs.slices.slice import GIB, Chip, Slice

CHIP = Chip(
    generation="v6e",
    devices=1,
    hbm_bytes=32 * GIB,
    usable_bytes=int(31.25 * GIB),
    bandwidth=1638e9,
    interconnect=800e9,
    peak_flops={"bfloat16": 918e12, "int8": 1836e12},
    source="https://cloud.google.com/tpu/docs/v6e",
)

SLICES = tuple(
    Slice(
        name=f"v6e-{chips}",
        chip=CHIP,
        topology=topology,
        hosts=1 if chips <= 8 else chips // 4,
        accelerator=f"v6e-{chips}",
        machine=f"ct6e-standard-{chips if chips <= 8 else 4}t",
        runtime="v2-alpha-tpuv6e",
    )
    for chips, topology in (
        (1, "1x1"), (4, "2x2"), (8, "2x4"), (16, "4x4"), (32, "4x8"), (64, "8x8"), (128, "8x16"),
        (256, "16x16"),
    )
)  # fmt: skip
