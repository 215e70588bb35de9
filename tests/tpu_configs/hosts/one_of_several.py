"""What each process of a group does in the tests; told by the environment who it is. Prints JSON.

Arguments: a model directory or nothing, a run directory and its recipe, the mesh to train on, the step behind
which a process is killed, 0 for none, and which process that is.
"""

import json
import os
import signal
import sys

from jaxmodels.tpu_configs.hosts import connected

PROMPT = list(range(40))  # longer than a window's bucket of 32: 16 tokens and more for each part


def main(model, run, recipe, sizes, killed_behind, killed=1):
    with connected(patience_to_connect=120, patience=10):
        if model:
            print(json.dumps({"tokens": generated(model)}), flush=True)
        losses = trained(run, recipe, json.loads(sizes), int(killed_behind), int(killed))
        print(json.dumps({"losses": losses}), flush=True)


def generated(model):
    import jaxmodels as jm
    from jaxmodels.tpu_configs.mesh import make_mesh

    loaded = jm.load(model, "float32", mesh=make_mesh(sequence=2, tensor=2))
    return loaded.generate([PROMPT, PROMPT[:17]], max_new_tokens=8).tokens.tolist()


def trained(run, recipe, sizes, killed_behind, killed):
    import jax

    from jaxmodels.tpu_configs.mesh import make_mesh
    from jaxmodels.training import loop
    from jaxmodels.training.checkpointing import TrainCheckpoints
    from jaxmodels.training.metrics import read_metrics
    from jaxmodels.training.recipe import load_recipe

    save = TrainCheckpoints.save

    def save_and_die(self, state):
        save(self, state)
        self._finish()
        if int(state.step) == killed_behind and jax.process_index() == killed:
            os.kill(os.getpid(), signal.SIGKILL)

    if killed_behind:
        TrainCheckpoints.save = save_and_die
    loop.train(load_recipe(recipe), run, mesh=make_mesh(**sizes))
    return {record["step"]: record["loss"] for record in read_metrics(f"{run}/metrics.jsonl")}


if __name__ == "__main__":
    main(*sys.argv[1:])
