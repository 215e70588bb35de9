"""TPU v5p. The two TensorCores of a chip are one device, and names count TensorCores."""

from jaxmodels.tpu_configs.slices.slice import GIB, Chip, Slice

CHIP = Chip(
    generation="v5p",
    devices=1,
    hbm_bytes=96 * GIB,  # published as 95, of which libtpu counts 95.74 usable
    usable_bytes=int(95.74 * GIB),
    bandwidth=2765e9,
    interconnect=1200e9,
    peak_flops={"bfloat16": 459e12, "int8": 918e12},
    source="https://cloud.google.com/tpu/docs/v5p",
)

SLICES = tuple(
    Slice(
        name=f"v5p-{2 * chips}",
        chip=CHIP,
        topology=topology,
        hosts=chips // 4,
        accelerator=f"v5p-{2 * chips}",
        machine="ct5p-hightpu-4t",
        runtime="v2-alpha-tpuv5",
    )
    for chips, topology in ((4, "2x2x1"), (8, "2x2x2"), (16, "2x2x4"), (32, "2x4x4"), (64, "4x4x4"))
)
