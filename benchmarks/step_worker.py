"""One side of reference_jax.py: a process that takes training steps of one shape when it is told to.

    python step_worker.py ours|reference SHAPE [CHECKOUT]

SHAPE is JSON. At the start, and for each command on standard input, one line of JSON goes to standard output:

    (start)    {"software": ..., "first_step": seconds}
    steps K    {"steps": [seconds, ...]}
    memory     {"peak_bytes": ...}
    cut        {"reduction": seconds, "first_step": seconds}

The two sides run in different interpreters, so each imports its own libraries, and this module only the standard one.
"""

import json
import os
import resource
import sys
import time
import types
from collections.abc import Callable
from typing import Any

SEED = 0


class Ours:
    """This project's training step, from the shipped recipe of the data set."""

    def __init__(self, shape: dict[str, Any]) -> None:
        import torch

        from compressm_cli.data.interface import DataSpec
        from compressm_cli.engine.optimizer import build_optimizer
        from compressm_cli.engine.precision import prepare
        from compressm_cli.models import build_model
        from compressm_cli.ops.scan import load_kernels
        from compressm_cli.recipe import load_recipe

        self.shape = shape
        recipe = load_recipe(
            shape["recipe"],
            [
                f"model.depth={shape['blocks']}",
                f"model.model_dim={shape['model_dim']}",
                f"model.layer.state_dim={shape['state_dim']}",
                f"train.batch_size={shape['batch']}",
            ],
        )
        self.config = recipe.train
        prepare(torch.device("cpu"), self.config.precision)
        load_kernels(torch.device("cpu"))  # as a run does at its start
        torch.manual_seed(SEED)
        spec = DataSpec(classes=shape["classes"], length=shape["length"], features=shape["features"])
        self.model = build_model(recipe.model, spec).train()
        self.optimizer = build_optimizer(self.model, self.config)
        self.inputs = torch.randn(shape["batch"], shape["length"], shape["features"])
        self.labels = torch.randint(shape["classes"], (shape["batch"],))
        self.taken = 0
        self.software = f"torch {torch.__version__}, {torch.get_num_threads()} threads"

    def step(self) -> float:
        """What ``engine.loop`` does in a step; returns the loss, so that it is computed."""
        from torch.nn import functional

        from compressm_cli.engine.optimizer import learning_rate, set_learning_rate
        from compressm_cli.structure.masks import enforce_masks

        self.taken += 1
        set_learning_rate(self.optimizer, learning_rate(self.config, self.taken))
        loss = functional.cross_entropy(self.model(self.inputs), self.labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        enforce_masks(self.model)
        return float(loss.detach())

    def cut(self, order: int) -> None:
        """The reference's truncation: complex, analytic Gramians of all time, Adam's moments cut by index."""
        import torch

        from compressm_cli.methods.hankel.method import Hankel, HankelConfig
        from compressm_cli.methods.method import CheckContext
        from compressm_cli.methods.schedule import ListedSchedule
        from compressm_cli.structure import surgery

        config = HankelConfig(
            method="hankel",
            target_order=order,
            realization="complex",
            gramian="analytic",
            horizon="infinite",
            moments="slice",
            schedule=ListedSchedule(kind="listed", at_steps=[1]),
        )
        context = CheckContext(1, 1, self.shape["length"], torch.Generator(), lambda count: {})
        surgery.apply_plan(self.model, self.optimizer, Hankel(config).plan(self.model, context))

    def orders(self) -> list[int]:
        from compressm_cli.structure import surgery

        return list(surgery.orders(self.model).values())


class Reference:
    """The reference implementation's own training step, model and recipe, imported from its checkout."""

    def __init__(self, shape: dict[str, Any], checkout: str) -> None:
        sys.path.insert(0, checkout)
        # Its data sets need torchvision, torchtext and more, and are not used here.
        stub: Any = types.ModuleType("compressm.data.datasets")
        stub.Dataset = stub.create_dataset = None
        sys.modules[stub.__name__] = stub
        import equinox
        import jax
        import yaml
        from compressm.models.lru import LRU
        from compressm.training import utils

        with open(os.path.join(checkout, "configs", "paper", shape["config"])) as file:
            config = yaml.safe_load(file)
        self.training = config["training"]
        self.key = jax.random.PRNGKey(SEED)
        self.model = LRU(
            num_blocks=shape["blocks"],
            input_dim=shape["features"],
            state_dim=shape["state_dim"],
            hidden_dim=shape["model_dim"],
            output_dim=shape["classes"],
            **{name: config["model"][name] for name in ("r_min", "r_max", "drop_rate")},
            key=self.key,
        )
        self.state = equinox.nn.State(self.model)
        self.filter_spec = jax.tree_util.tree_map(lambda _: True, self.model)
        self.utils = utils
        self.several = self.training["ssm_lr_factor"] != 1.0
        self.optimizer, self.optimizer_state = self.new_optimizer()
        size = (shape["batch"], shape["length"], shape["features"])
        self.inputs = jax.random.normal(self.key, size)
        labels = jax.random.randint(self.key, size[:1], 0, shape["classes"])
        self.labels = jax.nn.one_hot(labels, shape["classes"])
        self.software = f"jax {jax.__version__}, {len(os.sched_getaffinity(0))} processors"

    def new_optimizer(self) -> tuple[Any, Any]:
        import equinox

        names = ("lr", "num_steps", "weight_decay", "ssm_lr_factor", "use_warmup_cosine")
        optimizer = self.utils.create_optimizer(**{name: self.training[name] for name in names})
        parameters = equinox.filter(self.model, equinox.is_inexact_array)
        return optimizer, optimizer.init([parameters] if self.several else parameters)

    def step(self) -> float:
        """What its ``train`` does in a step; the loss is read there too."""
        import jax

        self.key, key = jax.random.split(self.key)
        self.model, self.state, self.optimizer_state, loss = self.utils.make_step(
            self.model,
            self.filter_spec,
            self.inputs,
            self.labels,
            self.utils.classification_loss,
            self.state,
            self.optimizer,
            self.optimizer_state,
            key,
            use_multi_optimizer=self.several,
        )
        return float(loss)

    def cut(self, order: int) -> None:
        hsv = self.model.get_all_hankel_singular_values()
        self.model = self.model.reduce([order] * len(self.model.blocks), hsv, method="sqrtm")
        self.optimizer, fresh = self.new_optimizer()
        self.optimizer_state = self.utils.truncate_optimizer_state(self.optimizer_state, fresh)

    def orders(self) -> list[int]:
        return self.model.get_state_dims()


def seconds_of(work: Callable[..., Any], *arguments: Any) -> float:
    began = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - began


def answer(side: Ours | Reference, shape: dict[str, Any], command: str) -> dict[str, Any]:
    """Carry out one command of the module's text."""
    name, *arguments = command.split()
    if name == "steps":
        return {"steps": [seconds_of(side.step) for _ in range(int(arguments[0]))]}
    if name == "memory":
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {"peak_bytes": peak * (1 if sys.platform == "darwin" else 1024)}
    taken = {"reduction": seconds_of(side.cut, shape["cut"]), "first_step": seconds_of(side.step)}
    assert set(side.orders()) == {shape["cut"]}, side.orders()
    return taken


def main() -> None:
    which, text, *checkout = sys.argv[1:]
    shape = json.loads(text)
    side = Ours(shape) if which == "ours" else Reference(shape, *checkout)
    print(json.dumps({"software": side.software, "first_step": seconds_of(side.step)}), flush=True)
    for command in sys.stdin:
        print(json.dumps(answer(side, shape, command)), flush=True)


if __name__ == "__main__":
    main()
