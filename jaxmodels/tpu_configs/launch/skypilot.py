"""On Google Cloud by SkyPilot.

Fields as in https://docs.skypilot.co/en/latest/reference/yaml-spec.html.
"""

import json
import textwrap

from jaxmodels.tpu_configs.launch.job import Job

_TASK = """# sky launch --cluster {name} --down jaxmodels.yaml
name: {name}
resources:
  infra: gcp
  accelerators: tpu-{accelerator}:1
  accelerator_args:
    runtime_version: {runtime}
    tpu_vm: true
{environment}setup: |
  {install}
run: |
  {line}
"""


def files(job: Job) -> dict[str, str]:
    """A task in YAML. Raises ValueError where the Cloud TPU API does not offer the slice."""
    if job.slice.accelerator is None:
        raise ValueError(
            f"launch: SkyPilot rents TPUs by the Cloud TPU API, which does not offer {job.slice.name}; "
            "take xpk or ray"
        )
    # Text in JSON is text in YAML.
    variables = "".join(f"{name}: {json.dumps(value)}\n" for name, value in job.environment.items())
    return {
        "jaxmodels.yaml": _TASK.format(
            name=job.name, accelerator=job.slice.accelerator, runtime=job.slice.runtime,
            environment=f"envs:\n{textwrap.indent(variables, '  ')}" if variables else "",
            install=job.install, line=job.line.replace("\n", "\n  "),
        )
    }  # fmt: skip
