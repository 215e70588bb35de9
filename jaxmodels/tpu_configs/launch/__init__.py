"""Files that start a `jaxmodels` command on a TPU slice, one module for each tool that rents or runs slices.

All start the same command on every host; the hosts find each other as `jaxmodels.tpu_configs.hosts` says.
"""

import difflib

from jaxmodels.checks import shown
from jaxmodels.tpu_configs.launch import gcloud, jax_distributed, ray, single_host, skypilot, xpk
from jaxmodels.tpu_configs.launch.job import Job

__all__ = ["TOOLS", "Job", "launch_files"]

TOOLS = {
    "single-host": single_host.files,
    "jax-distributed": jax_distributed.files,
    "gcloud": gcloud.files,
    "xpk": xpk.files,
    "skypilot": skypilot.files,
    "ray": ray.files,
}


def launch_files(tool: str, job: Job) -> dict[str, str]:
    """The files that start `job` with a tool, by name: texts.

    Raises:
        ValueError: an unknown tool, or one that cannot start jobs on such a slice.
    """
    if tool not in TOOLS:
        near = difflib.get_close_matches(tool, TOOLS, 1)
        meant = f", perhaps {near[0]!r} is meant" if near else ""
        raise ValueError(f"launch: {shown(tool)} is not known{meant}; known are {', '.join(TOOLS)}")
    return TOOLS[tool](job)
