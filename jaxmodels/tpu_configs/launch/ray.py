"""On the hosts of a slice that a Ray cluster has, one task on each.

Ray counts the chips of a host as its "TPU" resource: https://docs.ray.io/en/latest/cluster/kubernetes/user-guides/tpu.html.
"""

from jaxmodels.tpu_configs.launch.job import Job

_SCRIPT = '''"""Runs a jaxmodels command on each of the {hosts} hosts of a {slice}.

    ray job submit --working-dir . --runtime-env-json '{{"pip": ["jaxmodels[tpu]"]}}' -- python ray_launch.py
"""

import os
import socket
import subprocess

import ray

COMMAND = {command!r}
VARIABLES = {variables!r}
HOSTS, CHIPS = {hosts}, {chips}


@ray.remote(resources={{"TPU": CHIPS}})
class Host:
    """One host: all its chips are taken, so that no other is placed there."""

    def address(self):
        """Where host 0 listens: its address and a free port."""
        with socket.socket() as free:
            free.bind(("", 0))
            return f"{{ray.util.get_node_ip_address()}}:{{free.getsockname()[1]}}"

    def run(self, coordinator, number):
        """Runs the command; gives its exit status."""
        known = {{
            "JAX_COORDINATOR_ADDRESS": coordinator,
            "JAX_NUM_PROCESSES": str(HOSTS),
            "JAX_PROCESS_ID": str(number),
        }}
        return subprocess.run(COMMAND, env={{**os.environ, **VARIABLES, **known}}, check=False).returncode


ray.init()
hosts = [Host.remote() for _ in range(HOSTS)]
coordinator = ray.get(hosts[0].address.remote())
statuses = ray.get([host.run.remote(coordinator, number) for number, host in enumerate(hosts)])
raise SystemExit(max(statuses))
'''


def files(job: Job) -> dict[str, str]:
    """A Python program for `ray job submit`."""
    variables = {name: value for name, value in job.environment.items() if name != "JAXMODELS_HOSTS"}
    return {
        "ray_launch.py": _SCRIPT.format(
            hosts=job.slice.hosts, slice=job.slice.name, command=["jaxmodels", *job.command],
            variables=variables, chips=job.slice.chips // job.slice.hosts,
        )
    }  # fmt: skip
