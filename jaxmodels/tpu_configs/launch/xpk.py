"""On Google Kubernetes Engine by XPK, which makes a JobSet of the command.

Options as in https://github.com/AI-Hypercomputer/xpk/blob/main/docs/usage/workloads.md. XPK calls v5e
"v5litepod", and checks a script that is run with ``DRY_RUN=--dry-run``.
"""

import shlex

from jaxmodels.tpu_configs.launch.job import Job

_SCRIPT = """#!/usr/bin/env bash
# Runs the command on a {slice} of a cluster that has one:
#     xpk cluster create --cluster=$CLUSTER --zone=$ZONE --tpu-type={type} --num-slices=1
# `DRY_RUN=--dry-run CLUSTER=... bash launch.sh` only shows what XPK would do.
set -e
CLUSTER="${{CLUSTER:?the name of the cluster}}"
ZONE="${{ZONE:?its zone}}"
IMAGE="${{IMAGE:-python:3.12}}"
xpk workload create ${{DRY_RUN:-}} --cluster="$CLUSTER" --zone="$ZONE" --workload={name} --tpu-type={type} \\
  --num-slices=1 --docker-image="$IMAGE" --command={command}
"""


# XPK's table of what it can ask for has v5e from a whole host of eight chips on.
_UNKNOWN = ("v5e-1", "v5e-4")


def files(job: Job) -> dict[str, str]:
    """A shell script. Raises ValueError where XPK does not know the slice."""
    if job.slice.name in _UNKNOWN:
        raise ValueError(
            f"launch: XPK knows v5e from v5e-8 on, and not {job.slice.name}; take gcloud or skypilot"
        )
    return {
        "launch.sh": _SCRIPT.format(
            slice=job.slice.name, name=job.name, type=job.slice.name.replace("v5e", "v5litepod"),
            command=shlex.quote(job.on_host),
        )
    }  # fmt: skip
