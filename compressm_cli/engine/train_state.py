"""What is trained, at a step: the model and its optimizer, what the method remembers, and random states."""

from typing import Any

import torch
from torch import nn
from torch.optim import AdamW

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.checkpoint.training_state import require_record
from compressm_cli.core.errors import BadInputError, RunFailedError
from compressm_cli.core.text import error_line, shorten
from compressm_cli.data.interface import Dataset
from compressm_cli.engine import state
from compressm_cli.engine.batches import derived_generator
from compressm_cli.engine.budget import Budget
from compressm_cli.engine.distributed.agreement import share_memory
from compressm_cli.engine.distributed.group import Group
from compressm_cli.engine.divergence import require_finite
from compressm_cli.engine.ledger import Ledger
from compressm_cli.engine.listeners import Listeners
from compressm_cli.engine.optimizer import build_optimizer
from compressm_cli.engine.placement import Held, placement
from compressm_cli.engine.settling import begun
from compressm_cli.engine.workload import Workload
from compressm_cli.layers.interface import ROLES
from compressm_cli.methods.faults import MethodFaultError, ask, memory_of
from compressm_cli.methods.hooks import Hooks
from compressm_cli.methods.method import CheckContext, Method, SetupContext, StepContext
from compressm_cli.methods.parameters import groups_of_method
from compressm_cli.methods.registry import method_of
from compressm_cli.ops.forms import CostModel
from compressm_cli.recipe import Recipe
from compressm_cli.structure import surgery
from compressm_cli.structure.map import StructureMap
from compressm_cli.structure.optimizers import METHOD, method_parameters
from compressm_cli.structure.plan import Plan, UnitRecord


class TrainState:
    """Everything that decides how training goes on from a step: data and learning rate are functions of it.

    Begins at step 0, with fresh weights or those of ``initial``; of a run to ``resume``, whose state is still to be put
    back, it has the shapes. What reads or changes the model is collective.
    """

    def __init__(
        self,
        recipe: Recipe,
        seed: int,
        dataset: Dataset,
        resume: Checkpoint | None,
        initial: Checkpoint | None,
        group: Group,
        device: torch.device,
        work: Workload,
        budget: Budget,
        ledger: Ledger,
        listeners: Listeners,
    ) -> None:
        self.group, self.device = group, device
        self._config, self._work, self._ledger, self._listeners = recipe.train, work, ledger, listeners
        self._budget = budget
        self._same_sizes = dataset.train.lengths is None
        self.step = 0
        known = resume or initial
        torch.manual_seed(seed)
        self.placement = placement(self._config.parallel, group, device)
        if known is None:
            model = self.placement.fresh(lambda: begun(recipe.model, dataset.spec))
        else:
            model = known.build_model()
        self.model = self.placement.place(model)
        self.forward: nn.Module = self.model
        """What to call in training: the replicated or the compiled model, where it is one."""
        if not group.is_main:  # the dropout of its own rows
            torch.manual_seed(derived_generator(seed, "process", group.rank).initial_seed())
        # A run goes on with the groups that it began with, perhaps under an earlier version.
        earlier = None if resume is None else resume.training
        self.method = method_of(recipe.compression)
        self.placement.require_method(self.method)
        self.generator = derived_generator(seed, "method")
        """For the method's random choices."""
        self._began = {**self.sizes, **({} if earlier is None else earlier["began"])}
        self.optimizer = self._optimizer(earlier, dataset.spec.length)
        self._hooks = Hooks(self.method)
        self._costs: CostModel | None = None
        self.compile_pending = True
        """Whether the next step compiles: the first one of a process loads kernels, which is booked as that."""

    def _optimizer(self, earlier: dict[str, Any] | None, length: int) -> AdamW:
        """That of the model and of the method, once this is set up; of a run that goes on, with the groups it has."""
        outline = self.placement.outline(self.model)
        context = SetupContext(length, self._began, self.generator)
        ask(self.method, Method.setup, self.model, StructureMap.of(outline), context)
        groups = [] if earlier is None else earlier["optimizer"]["param_groups"]
        count = sum(group.get("of") != METHOD for group in groups) or len(ROLES)
        own = groups_of_method(self.method, self.model)
        optimizer = build_optimizer(self.model, self._config, count, own)
        if earlier is not None:
            now = [tuple(p.shape) for p in method_parameters(optimizer)]
            if (then := [tuple(p.shape) for p in earlier["parameters"]]) != now:
                name = self.method.config.method
                raise BadInputError(
                    f"compression.method: {name}: its parameters have the shapes {shorten(then)} in the checkpoint, "
                    f"and {shorten(now)} now; go on with the version that began the run"
                )
        return optimizer

    @property
    def orders(self) -> dict[str, int]:
        """Of the layers, by name."""
        return surgery.orders(self.model)

    @property
    def start_sizes(self) -> dict[str, int]:
        """The same when the run began; of what came later, when it did."""
        return {**self.sizes, **self._began}

    @property
    def sizes(self) -> dict[str, int]:
        """Of all axes, by name."""
        return surgery.sizes(self.model)

    @property
    def context(self) -> StepContext:
        """Of the step now, for the method."""
        budget = self._budget
        return StepContext(self.step, budget.total, self.model, self.generator, position=budget.position)

    def after_step(self) -> Plan | None:
        """What the method wants changed right after a step, in all processes."""
        if not self.method.acts_each_step:
            return None
        plan = self.group.from_main(lambda: ask(self.method, Method.after_step, self.context))
        if plan is None:
            return None
        share_memory(self.method, self.generator, self.group)
        self.require_records(plan.records)
        return plan

    def require_finite(self) -> None:
        """DivergedError where a weight, a buffer or a moment of the optimizer is not finite."""
        require_finite(self.model, self.optimizer, self.step)

    # ---- changes of shape ----------------------------------------------------------------------------------

    def learn_costs(self) -> None:
        """Learn what forms of recurrences cost on the main process's machine."""
        self._costs = self._work.costs(self.model, self.device)

    def plan(self, context: CheckContext) -> Plan:
        """What the method wants changed."""
        plan = self.placement.plan(self.method, self.model, context)
        self.require_records(plan.records)
        return plan

    def require_records(self, records: list[UnitRecord]) -> None:
        """RunFailedError for records that no log could hold, nor a checkpoint of a trial be read back with."""
        for record in records:
            try:
                require_record(vars(record), type(self.method))
            except ValueError as error:
                name = self.method.config.method
                raise RunFailedError(
                    f"compression.method: {name}: its record of {record.unit}: {error}"
                ) from None

    def undone(self, sizes: dict[str, int], reason: str) -> list[UnitRecord]:
        """Records of the axes that have not these ``sizes`` any more, with what they have."""
        changed = {n: a for n, a in StructureMap.of(self.model).items() if sizes.get(n) != a.size}
        records = [self.untouched(n, a.kind, a.size, reason) for n, a in changed.items()]
        self.require_records(records)
        return records

    def untouched(self, unit: str, kind: str, size: int, reason: str) -> UnitRecord:
        """The record of something that the method did not look at."""
        return UnitRecord(unit, kind, size, size, reason, details=ask(self.method, Method.no_details))

    def apply(self, plan: Plan) -> None:
        """Carry out a plan; ``renew`` is due then. ValueError, with nothing changed, where it cannot be."""
        self.model = self.placement.apply(self.model, self.optimizer, plan)

    def renew(self, logged: bool = True) -> None:
        """Hook anew, count anew, wrap anew and compile anew, for the modules and shapes that the model has now."""
        self._hooks.follow(self.model)
        outline = self.placement.outline(self.model)
        self._ledger.segment(self._work.measures(self.model, outline, self._costs))
        if not self.group.is_alone:
            checksum = self.placement.confirm(self.model, self.optimizer, f"after step {self.step}")
            if logged:
                self._listeners.checksum(self.step, checksum)
        self.forward = self.placement.forward(self.model)
        if self._config.compile:
            self._compile()

    def _compile(self) -> None:
        self.compile_pending = True
        # What was compiled for earlier shapes counts against the number of versions that are compiled.
        torch.compiler.reset()
        # With CUDA graphs, where the sizes of a batch stay as they are: until the next cut.
        fixed = self.device.type == "cuda" and self._same_sizes
        mode = "reduce-overhead" if fixed else None
        self.forward = torch.compile(self.forward, mode=mode)  # type: ignore[assignment]

    # ---- to go back to -------------------------------------------------------------------------------------

    def capture(self) -> dict[str, Any]:
        """What ``restore`` and ``recall`` go back to; each process has its own, which holds no more than it needs."""
        held = self.placement.capture(self.model, self.optimizer)
        memory = {"method": memory_of(self.method), "generator": self.generator.get_state()}
        return {**held, **memory, "step": self.step, "random": state.random_state()}

    def restore(self, saved: dict[str, Any]) -> None:
        """Put back what ``capture`` gave, shapes included, but what the method knows; ``renew`` is due then."""
        self.model = self.placement.restore(self.model, self.optimizer, saved)
        state.restore_random(saved["random"])
        self.step = int(saved["step"])

    def recall(self, saved: dict[str, Any]) -> None:
        """Put back what the method remembered at ``capture``, and the random numbers that it was to draw."""
        ask(self.method, Method.load_state_dict, saved["method"])
        self.generator.set_state(saved["generator"])

    def whole(self, optimizer: bool = False) -> Held | None:
        """The model, perhaps with its optimizer's state, for a checkpoint: in the main process."""
        return self.placement.whole(self.model, self.optimizer if optimizer else None)

    def process_state(self) -> dict[str, Any]:
        """What the processes do not have in common, for a checkpoint."""
        return {"random": state.random_state()}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds beside the model and its optimizer."""
        return {
            "method": ask(self.method, Method.state_dict),
            "began": dict(self._began),
            "generator": self.generator.get_state(),
            # With the costs of another machine, or of another hour, a resumed run could take other forms.
            "costs": None if self._costs is None else dict(self._costs.constants),
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take over ``state_dict``'s result, in a process that goes on with a run."""
        self.go_back(saved)
        self._costs = None if saved["costs"] is None else CostModel(saved["costs"])

    def go_back(self, saved: dict[str, Any]) -> None:
        """Take over of ``state_dict``'s result what may have changed since, in the process that gave it."""
        try:
            self.recall(saved)
        except MethodFaultError as error:
            why = error_line(error.__cause__ or error, lambda _: False)
            raise BadInputError(
                f"compression.method: {self.method.config.method}: cannot go on from what the checkpoint says of it: "
                f"{why}"
            ) from error
