"""On each host by hand, or by any tool that runs one script on all of them."""

from jaxmodels.tpu_configs.launch.job import Job

_SCRIPT = """#!/usr/bin/env bash
# On each of the {hosts} hosts of a {slice}, with the address of the first one and another number from 0 on:
#     bash run.sh 10.0.0.1:8476 0
set -e
export JAX_COORDINATOR_ADDRESS="${{1:?the address of host 0 with a free port, such as 10.0.0.1:8476}}"
export JAX_PROCESS_ID="${{2:?the number of this host, from 0 on}}"
export JAX_NUM_PROCESSES={hosts}
{install}
{exports}{line}
"""


def files(job: Job) -> dict[str, str]:
    """A shell script that is told who its host is; see `jax.distributed.initialize`."""
    exports = "\n".join(it for it in job.exports.splitlines() if "JAXMODELS_HOSTS" not in it)
    return {
        "run.sh": _SCRIPT.format(
            hosts=job.slice.hosts, slice=job.slice.name, install=job.install, line=job.line,
            exports=f"{exports}\n" if exports else "",
        )
    }  # fmt: skip
