"""Recipes are run with stand-ins for the tools, which note what they are told and run what hosts would."""

import json
import os
import subprocess
import sys

import pytest
import yaml

from jaxmodels.tpu_configs.launch import TOOLS, Job, launch_files
from jaxmodels.tpu_configs.slices import SLICES, find_slice

# Words that a shell would take apart.
COMMAND = ("generate", "tiny-qwen3", "--mesh", "tensor=8", "-p", 'it\'s "so", $HOME\nand `more`')

# What each stand-in does: it appends its arguments and the variables of a host to a file.
NOTE = """#!{python}
import json, os, sys
kept = ("LIBTPU_INIT_ARGS", "JAXMODELS_HOSTS", "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES")
with open(os.environ["NOTES"], "a") as notes:
    values = {{name: os.environ[name] for name in (*kept, "JAX_PROCESS_ID") if name in os.environ}}
    print(json.dumps([os.path.basename(sys.argv[0]), sys.argv[1:], values]), file=notes)
for word in sys.argv[1:]:
    if word.startswith("--command="):
        sys.exit(os.system(word.removeprefix("--command=")))
"""


@pytest.fixture
def started(tmp_path):
    """Runs a recipe's file with stand-ins; gives what they were told: (tool, words, variables)."""

    def run(file, text, *arguments, **variables):
        programs, notes = tmp_path / "programs", tmp_path / "notes"
        programs.mkdir(exist_ok=True)
        for name in ("jaxmodels", "gcloud", "xpk", "python3"):
            (programs / name).write_text(NOTE.format(python=sys.executable))
            (programs / name).chmod(0o755)
        (tmp_path / file).write_text(text)
        runner = sys.executable if file.endswith(".py") else "bash"
        path = f"{programs}:{os.environ['PATH']}"
        environment = {"PATH": path, "NOTES": str(notes), "HOME": str(tmp_path), **variables}
        done = subprocess.run(
            [runner, tmp_path / file, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        told = [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []
        return done, told

    return run


def files(tool, on="v5e-8"):
    return launch_files(tool, Job(slice=find_slice(on), command=COMMAND, name="answers"))


def commands(told):
    """What `jaxmodels` was told on each host, with its variables."""
    return [(tuple(words), variables) for name, words, variables in told if name == "jaxmodels"]


def test_a_single_host_runs_the_command_with_the_flags_of_its_slice(started):
    done, told = started("run.sh", files("single-host")["run.sh"])
    assert done.returncode == 0, done.stderr
    assert told[0][:2] == ["python3", ["-m", "pip", "install", "--quiet", "jaxmodels[tpu]"]]
    flags = " ".join(find_slice("v5e-8").xla_flags)
    assert commands(told) == [(COMMAND, {"LIBTPU_INIT_ARGS": flags})]


def test_each_host_is_told_which_it_is(started):
    text = files("jax-distributed", "v5e-16")["run.sh"]
    _, told = started("run.sh", text, "10.0.0.1:8476", "3")
    ((words, variables),) = commands(told)
    assert words == COMMAND and "JAXMODELS_HOSTS" not in variables
    assert variables["JAX_COORDINATOR_ADDRESS"] == "10.0.0.1:8476"
    assert (variables["JAX_NUM_PROCESSES"], variables["JAX_PROCESS_ID"]) == ("4", "3")


def test_a_host_that_is_not_told_which_it_is_says_what_is_missing(started):
    done, told = started("run.sh", files("jax-distributed")["run.sh"], "10.0.0.1:8476")
    assert done.returncode != 0 and "the number of this host" in done.stderr and not told


@pytest.mark.parametrize(("on", "hosts"), [("v5e-8", {}), ("v6e-16", {"JAXMODELS_HOSTS": "auto"})])
def test_gcloud_creates_runs_and_deletes(started, on, hosts):
    done, told = started("launch.sh", files("gcloud", on)["launch.sh"], ZONE="us-central1-a")
    assert done.returncode == 0, done.stderr
    verbs = [words[3] for name, words, _ in told if name == "gcloud"]
    assert verbs == ["create", "ssh", "delete"]
    slice_ = find_slice(on)
    assert told[0][1][4:] == [
        "answers", "--zone=us-central1-a", f"--accelerator-type={slice_.accelerator}",
        f"--version={slice_.runtime}",
    ]  # fmt: skip
    ((words, variables),) = commands(told)
    assert words == COMMAND and {**variables, **hosts} == variables


def test_a_zone_is_asked_for_before_anything_is_rented(started):
    done, told = started("launch.sh", files("gcloud")["launch.sh"])
    assert done.returncode != 0 and "ZONE=" in done.stderr and not told


@pytest.mark.parametrize(("on", "type_"), [("v5e-16", "v5litepod-16"), ("tpu7x-8", "tpu7x-8")])
def test_xpk_is_given_the_workload(started, on, type_):
    text = files("xpk", on)["launch.sh"]
    done, told = started("launch.sh", text, CLUSTER="mine", ZONE="us-east5-a", DRY_RUN="--dry-run")
    assert done.returncode == 0, done.stderr
    name, words, _ = told[0]
    assert (name, words[:3]) == ("xpk", ["workload", "create", "--dry-run"])
    assert {"--cluster=mine", "--zone=us-east5-a", "--workload=answers", f"--tpu-type={type_}"} <= set(words)
    assert commands(told)[0][0] == COMMAND


def test_slices_that_xpk_does_not_know_are_refused():
    with pytest.raises(ValueError, match="XPK knows v5e from v5e-8 on, and not v5e-4; take gcloud or"):
        files("xpk", "v5e-4")


def test_skypilot_is_given_a_task(started):
    task = yaml.safe_load(files("skypilot", "v6e-16")["jaxmodels.yaml"])
    assert set(task) == {"name", "resources", "envs", "setup", "run"}
    assert task["resources"]["accelerators"] == "tpu-v6e-16:1"
    assert task["resources"]["accelerator_args"]["runtime_version"] == "v2-alpha-tpuv6e"
    _, told = started("task.sh", task["setup"] + task["run"], **task["envs"])
    assert commands(told) == [(COMMAND, task["envs"])]
    assert "envs" not in yaml.safe_load(files("skypilot", "v6e-1")["jaxmodels.yaml"])


def test_a_skypilot_task_is_one_to_skypilot():
    sky = pytest.importorskip("sky")
    task = sky.Task.from_yaml_config(yaml.safe_load(files("skypilot", "v6e-8")["jaxmodels.yaml"]))
    (resources,) = task.resources
    assert task.name == "answers" and resources.accelerators == {"tpu-v6e-8": 1}


RAY = """
import os, types

class Remote:
    def __init__(self, call): self.call = call
    def remote(self, *args): return self.call(*args)

def remote(resources):
    assert resources == {"TPU": 4}
    def wrap(cls):
        def made():
            actor, names = cls(), ("address", "run")
            return types.SimpleNamespace(**{name: Remote(getattr(actor, name)) for name in names})
        return Remote(made)
    return wrap

init = lambda: None
get = lambda it: it
util = types.SimpleNamespace(get_node_ip_address=lambda: "10.0.0.7")
"""


def test_ray_starts_the_command_on_every_host(started, tmp_path):
    (tmp_path / "ray.py").write_text(RAY)
    done, told = started("ray_launch.py", files("ray", "v5e-16")["ray_launch.py"], PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert [words for words, _ in commands(told)] == [COMMAND] * 4
    variables = [it for _, it in commands(told)]
    assert [it["JAX_PROCESS_ID"] for it in variables] == ["0", "1", "2", "3"]
    assert len({it["JAX_COORDINATOR_ADDRESS"] for it in variables}) == 1
    assert variables[0]["JAX_COORDINATOR_ADDRESS"].startswith("10.0.0.7:")


@pytest.mark.parametrize("on", SLICES)
@pytest.mark.parametrize("tool", TOOLS)
def test_every_slice_has_files_or_a_reason(tool, on):
    refuses = {"single-host": SLICES[on].hosts > 1, "xpk": on in ("v5e-1", "v5e-4")}
    if refuses.get(tool, tool in ("gcloud", "skypilot") and SLICES[on].accelerator is None):
        with pytest.raises(ValueError, match=on):
            files(tool, on)
        return
    for name, text in files(tool, on).items():
        if name.endswith(".sh"):
            subprocess.run(["bash", "-n"], input=text, text=True, check=True)
        elif name.endswith(".py"):
            compile(text, name, "exec")
        else:
            assert yaml.safe_load(text)["run"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: files("slurm"), "launch: 'slurm' is not known; known are single-host"),
        (lambda: files("skypilo"), "perhaps 'skypilot' is meant"),
        (lambda: files("single-host", "v5e-16"), "v5e-16 has 4 hosts"),
        (lambda: files("gcloud", "tpu7x-8"), "does not offer tpu7x-8"),
        (lambda: files("skypilot", "tpu7x-8"), "does not offer tpu7x-8"),
        (lambda: Job(slice=find_slice("v5e-1"), command=()), "no command"),
        (lambda: Job(slice=find_slice("v5e-1"), command=("bench",), name="My_Job"), "name 'My_Job' must"),
    ],
)
def test_what_cannot_be_started_is_said(make, message):
    with pytest.raises(ValueError, match=message):
        make()
