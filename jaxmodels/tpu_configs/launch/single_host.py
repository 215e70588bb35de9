"""On the one host of a slice, once one is logged in there."""

from jaxmodels.tpu_configs.launch.job import Job


def files(job: Job) -> dict[str, str]:
    """A shell script. Raises ValueError where the slice has several hosts."""
    if job.slice.hosts > 1:
        raise ValueError(
            f"launch: {job.slice.name} has {job.slice.hosts} hosts, each of which must run the command; "
            "take jax-distributed, or a tool that starts all of them"
        )
    return {"run.sh": f"#!/usr/bin/env bash\n# On the host of a {job.slice.name}: bash run.sh\n{job.on_host}"}
