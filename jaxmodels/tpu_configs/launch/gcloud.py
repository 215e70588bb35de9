"""On a Cloud TPU VM that the gcloud command creates.

Options as in https://cloud.google.com/sdk/gcloud/reference/compute/tpus/tpu-vm.
"""

import shlex

from jaxmodels.tpu_configs.launch.job import Job

_SCRIPT = """#!/usr/bin/env bash
# Creates a {slice}, runs the command on each of its hosts, and deletes it, also after a failure. It costs
# money until then; `KEEP=1 bash launch.sh` keeps it.
set -e
ZONE="${{ZONE:?the zone, such as us-central1-a: ZONE=... bash launch.sh}}"
NAME="${{NAME:-{name}}}"
gcloud compute tpus tpu-vm create "$NAME" --zone="$ZONE" --accelerator-type={accelerator} --version={runtime}
if [ -z "$KEEP" ]; then
  trap 'gcloud compute tpus tpu-vm delete "$NAME" --zone="$ZONE" --quiet' EXIT
fi
gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=all --command={command}
"""


def files(job: Job) -> dict[str, str]:
    """A shell script. Raises ValueError where the Cloud TPU API does not offer the slice."""
    if job.slice.accelerator is None:
        raise ValueError(
            f"launch: the Cloud TPU API does not offer {job.slice.name}, only Kubernetes does; "
            "take xpk or ray"
        )
    path = 'export PATH="$HOME/.local/bin:$PATH"\n'  # where pip installs commands of users
    return {
        "launch.sh": _SCRIPT.format(
            slice=job.slice.name, name=job.name, accelerator=job.slice.accelerator,
            runtime=job.slice.runtime, command=shlex.quote(path + job.on_host),
        )
    }  # fmt: skip
