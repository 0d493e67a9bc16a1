"""The loop: optimizer steps, evaluations, checkpoints, until the steps are done or nothing gets better."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from hasten.core.data import Array
from hasten.core.errors import OutputError, TrainingError
from hasten.train import checkpoint as checkpoints
from hasten.train import optimizer as optimizers
from hasten.train import weights
from hasten.train.checkpoint import Checkpoint
from hasten.train.history import EvaluationRow, Event, History, Listener, StepRow
from hasten.train.network import Intake, Network
from hasten.train.objective import Objective, Part
from hasten.train.order import Order, share
from hasten.train.regularizer import Pace, Regularizer, Regularizers
from hasten.train.samples import Batch, Samples
from hasten.train.settings import Settings
from hasten.train.subnetworks import Subnetworks
from hasten.train.world import agreed, check_same, rows_of_all, share_statistics

_NOTED_AT_ONCE = 10
"""Optimizer steps whose losses are read together: reading one waits for the device."""
_SMALLEST_SCALE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Task:
    """All that a training is made of. held: parts of samples that are not trained on.

    largest: samples of a part at most, so that no process gets more than the models take at a time.
    regularizer: what changes the weights after each step. subnetworks: what learns besides the whole.
    identity: what a checkpoint must agree with.
    """

    network: Network
    intake: Intake
    teacher: Network | None
    teacher_intake: Intake
    objective: Objective
    regularizer: Regularizer | None
    subnetworks: Subnetworks | None
    order: Order
    samples: Samples
    held: Sequence[Sequence[int]]
    largest: int | None
    settings: Settings
    learn_statistics: bool
    folder: Path | None
    identity: Mapping[str, Any]
    listener: Listener

    @property
    def steps(self) -> int:
        """Optimizer steps there will be at most."""
        return self.settings.steps or max(1, math.ceil(self.settings.epochs * len(self.order)))

    @property
    def evaluate_every(self) -> int:
        """Optimizer steps between evaluations."""
        return self.settings.evaluate_every or len(self.order)


@dataclass(frozen=True)
class _Loaded:
    """A part of a batch with this process's share of its samples; ``mine`` is 0 where it has none."""

    part: Sequence[int]
    mine: int
    batch: Batch


@dataclass(frozen=True)
class _Contribution:
    """What a part of a batch adds to the loss, to its terms, and, in judging, to the metric.

    answers: what the network says, by the names of what a teacher would.
    """

    total: Tensor
    terms: dict[str, Tensor]
    right: Tensor | None
    answers: dict[str, Tensor]


class Trainer:
    """Carries out a task; ``restore`` it from a checkpoint first to go on."""

    def __init__(self, task: Task, accelerator: Accelerator) -> None:
        self.task = task
        self.history = History(metric=task.objective.metric.name if task.objective.metric else None)
        self.step = 0
        self.best_step = 0
        self.why = ""
        self.notes: list[str] = []
        self._accelerator = accelerator
        self._world = accelerator.num_processes
        self._network = task.network
        self._network.place(accelerator.device)
        self._models = [task.network, *([task.teacher] if task.teacher is not None else [])]
        for teacher in self._models[1:]:
            teacher.place(accelerator.device)
            teacher.set_mode(False, False)
        made = optimizers.make(self._network.module, task.settings)
        self._model, self._optimizer = accelerator.prepare(self._network, made)
        ema = task.settings.ema
        learns = task.learn_statistics
        self._average = weights.Average(self._network.module, ema, statistics=learns) if ema else None
        self._regularizers = Regularizers(self._network.module, task.settings, task.regularizer)
        self._pace = Pace.of(task.settings, task.steps)
        self._best: dict[str, Tensor] | None = None
        self._best_loss = math.inf
        self._worse = 0
        self._pending: list[tuple[float, Tensor]] = []
        self._began = (monotonic(), 0)
        check_same(accelerator, self._network.module, "at the start")

    def run(self) -> None:
        """Train until ``why`` says why not on, and leave the best weights in the module.

        Raises TrainingError when the loss is no number any more, OutputError when a checkpoint cannot be
        written.
        """
        self._began = (monotonic(), self.step)
        if self.step == 0 and self.task.held:
            self._evaluate()
        with ThreadPoolExecutor(1, "samples") as reader:
            coming = None if self.why else reader.submit(self._load, self.step)
            while coming is not None:
                loaded = coming.result()
                last = self.step + 1 >= self.task.steps
                coming = None if last else reader.submit(self._load, self.step + 1)
                self._train(loaded)
                self._after_step()
                if self.why and coming is not None:
                    coming.cancel()
                    coming = None
        self._finish()

    def _load(self, step: int) -> list[_Loaded]:
        """The parts of a batch, this process's share of each; a share of none is one sample that counts 0."""
        task = self.task
        epoch = step // len(task.order)
        parts = task.order.parts(task.order.batch(step), task.settings.accumulate, task.largest)
        return [self._loaded(part, epoch) for part in parts]

    def _loaded(self, part: Sequence[int], epoch: int | None) -> _Loaded:
        mine = share(part, self._accelerator.process_index, self._world)
        return _Loaded(part, len(mine), self.task.samples.load(mine or part[:1], epoch))

    def _train(self, loaded: Sequence[_Loaded]) -> None:
        settings = self.task.settings
        rate = settings.learning_rate * self._pace.rates[self.step]
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group[optimizers.PACE]
        self._network.set_mode(True, self.task.learn_statistics)
        size = sum(len(piece.part) for piece in loaded)
        parts = self.task.subnetworks.masks(self.step) if self.task.subnetworks else ()
        networks: list[Mapping[str, Array]] = [{}, *parts]
        rows = []
        for i, piece in enumerate(loaded):
            wanted: dict[str, Tensor] | None = None
            for j, masks in enumerate(networks):
                apart = i + 1 < len(loaded) or j + 1 < len(networks)
                with (
                    self._accelerator.no_sync(self._model) if apart else nullcontext(),
                    self._network.masked(masks),
                ):
                    given = self._contribution(self._model, piece, size, wanted)
                    # Data parallel training averages gradients over processes, and these are to be summed.
                    self._accelerator.backward(given.total * (self._world / len(networks)))
                wanted = wanted or given.answers
                rows.append(torch.stack([given.total.detach(), *given.terms.values()]))
        sums = torch.stack(rows).sum(0) / len(networks)
        if settings.clip_norm:
            self._accelerator.clip_grad_norm_(self._network.parameters(), settings.clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()
        if self.task.learn_statistics:
            share_statistics(self._accelerator, self._network.module)
        if not self._optimizer.step_was_skipped:
            self._regularizers.after_step(self._pace.at(self.step))
            if self._average:
                self._average.update()
        self._pending.append((rate, sums))

    def _contribution(
        self, model: Any, piece: _Loaded, size: int, wanted: dict[str, Tensor] | None = None
    ) -> _Contribution:
        """What a part adds; wanted: the values to learn, in place of the teacher's."""
        task = self.task
        batch = piece.batch.to(self._accelerator.device)
        if wanted is None:
            wanted = self._taught(batch)
        outputs = task.intake.run(model, batch)
        part = Part(piece.mine, len(piece.part), size, self._world)
        counts = [len(share(piece.part, rank, self._world)) for rank in range(self._world)]
        total, terms = task.objective.contributions(
            outputs, wanted, batch, part, lambda rows: rows_of_all(self._accelerator, counts, rows)
        )
        right: Tensor | None = None
        if task.objective.metric is not None and not torch.is_grad_enabled():
            right = task.objective.metric.each(outputs, wanted, batch)[: piece.mine].float().sum() / size
        answers = {name: value.detach() for name, value in outputs.items()}
        return _Contribution(total, terms, right, {**wanted, **answers})

    def _taught(self, batch: Batch) -> dict[str, Tensor]:
        """What the teacher says, where there is one."""
        if self.task.teacher is None:
            return {}
        with torch.no_grad(), self._accelerator.autocast():
            return self.task.teacher_intake.run(self.task.teacher, batch)

    def _after_step(self) -> None:
        settings, task = self.task.settings, self.task
        self.step += 1
        done = self.step >= task.steps
        if self.step == 1:
            check_same(self._accelerator, self._network.module, "after the first step")
        if len(self._pending) >= _NOTED_AT_ONCE or done:
            self._note()
        if task.held and (self.step % task.evaluate_every == 0 or done):
            self._evaluate()
        if done and not self.why:
            self.why = f"all {task.steps} steps were done"
        if task.folder is not None and (self.step % settings.checkpoint_every == 0 or self.why):
            self._keep(task.folder)

    def _note(self) -> None:
        """Read the losses of the last steps into the history; raises TrainingError when one is no number."""
        if not self._pending:
            return
        first = self.step - len(self._pending) + 1
        summed = torch.stack([sums for _, sums in self._pending])
        rows = self._accelerator.reduce(summed, "sum").double().cpu().tolist()
        for i, (row, (rate, _)) in enumerate(zip(rows, self._pending, strict=True)):
            parts = dict(zip(self.task.objective.names, row[1:], strict=True))
            self.history.steps.append(StepRow(first + i, row[0], rate, parts))
            if not math.isfinite(row[0]) and not self._loss_is_scaled():
                raise TrainingError(
                    f"the loss is {row[0]} at optimizer step {first + i}: lower learning_rate (now "
                    f"{self.task.settings.learning_rate:g}), or set clip_norm"
                )
        self._pending.clear()
        self._tell()

    def _loss_is_scaled(self) -> bool:
        """Whether float16 is in use and its scale is still in range: a step that overflows is left out."""
        scaler = self._accelerator.scaler
        return scaler is not None and scaler.get_scale() > _SMALLEST_SCALE

    def _tell(self, evaluation: EvaluationRow | None = None) -> None:
        if not self._accelerator.is_main_process:
            return
        since, at = self._began
        done = self.step - at
        left = (monotonic() - since) / done * (self.task.steps - self.step) if done else None
        row = self.history.steps[-1] if self.history.steps else None
        self.task.listener(
            Event(
                step=self.step,
                steps=self.task.steps,
                loss=row.loss if row else None,
                learning_rate=row.learning_rate if row else None,
                evaluation=evaluation,
                metric=self.history.metric,
                seconds_left=left,
            )
        )

    @torch.no_grad()
    def _evaluate(self) -> None:
        """Judge the weights (averaged, where they are) by the samples held back; keep the best ones."""
        self._note()
        self._network.set_mode(False, False)
        size = sum(len(part) for part in self.task.held)
        with self._average.applied() if self._average else nullcontext():
            sums = torch.zeros(2, device=self._accelerator.device)
            for part in self.task.held:
                given = self._contribution(self._network, self._loaded(part, None), size)
                sums += torch.stack([given.total, given.total if given.right is None else given.right])
            loss, metric = self._accelerator.reduce(sums, "sum").double().cpu().tolist()
            better = loss < self._best_loss
            if better and not self._regularizers.final:
                self._best, self._best_loss = weights.take(self._network.module), loss
                self.best_step = self.step
        self._worse = 0 if better else self._worse + 1
        row = EvaluationRow(self.step, loss, metric if self.task.objective.metric else None)
        self.history.evaluations.append(row)
        self._tell(row)
        patience = self.task.settings.patience
        if patience is not None and self._worse >= patience:
            self.why = f"no better in {self._worse} evaluations; the best was after step {self.best_step}"

    def _finish(self) -> None:
        module = self._network.module
        if self._best is not None:
            weights.put(module, self._best)
        else:
            self.best_step = self.step
            if self._average:
                self._average.settle()
            weights.refuse_broken(module, f"after optimizer step {self.step}", self.task.settings)
        self._network.set_mode(False, False)
        module.zero_grad(set_to_none=True)

    def _keep(self, folder: Path) -> None:
        """Write a checkpoint; every process takes part."""
        self._note()
        check_same(self._accelerator, self._network.module, f"after step {self.step}")
        tensors, plain = checkpoints.random_state(*self._models)
        states: list[Any] = [(tensors, plain)]
        if self._world > 1:
            states = [None] * self._world
            torch.distributed.all_gather_object(states, (tensors, plain))
        if self._accelerator.is_main_process:
            checkpoints.write(folder, self._snapshot(states))
        self._accelerator.wait_for_everyone()

    def _snapshot(self, states: Sequence[tuple[dict[str, Tensor], dict[str, Any]]]) -> Checkpoint:
        module, scaler = self._network.module, self._accelerator.scaler
        return Checkpoint(
            self.step,
            {
                "model": weights.take(module),
                "ema": self._average.shadow if self._average else {},
                "best": self._best or {},
                "optimizer": optimizers.take_state(self._optimizer.optimizer, module),
                "random": {
                    f"{rank}:{name}": tensor
                    for rank, (held, _) in enumerate(states)
                    for name, tensor in held.items()
                },
            },
            {
                "history": self.history.to_json(),
                "random": [plain for _, plain in states],
                "scaler": scaler.state_dict() if scaler else None,
                "ema_updates": self._average.updates if self._average else 0,
                "best_loss": self._best_loss,
                "best_step": self.best_step,
                "worse": self._worse,
                "why": self.why,
                "groups": optimizers.take_groups(self._optimizer.optimizer),
                "processes": self._world,
            },
            dict(self.task.identity),
        )

    def restore(self, folder: Path) -> None:
        """Go on from the newest whole checkpoint, or from the start when there is none.

        Raises InputError when it is of another training.
        """
        kept, notes = checkpoints.newest(folder, self._accelerator.device)
        step = agreed(self._accelerator, kept.step if kept else None)
        if (kept.step if kept else None) != step:
            raise OutputError(
                f"the processes see different checkpoints in {folder}: it must be a shared folder"
            )
        self.notes += notes
        if kept is None:
            return
        checkpoints.check_identity(kept.identity, self.task.identity, folder)
        module, state = self._network.module, kept.state
        weights.put(module, kept.tensors["model"])
        if self._average:
            self._average.restore(kept.tensors["ema"], state["ema_updates"])
        tensors = kept.tensors.get("optimizer", {})
        optimizers.put_state(self._optimizer.optimizer, module, tensors, state["groups"])
        if self._accelerator.scaler is not None and state["scaler"]:
            self._accelerator.scaler.load_state_dict(state["scaler"])
        self.step, self.best_step, self.why = kept.step, state["best_step"], state["why"]
        self.history = History.from_json(state["history"])
        self._best = kept.tensors.get("best")
        self._best_loss, self._worse = state["best_loss"], state["worse"]
        self._restore_chance(kept)
        check_same(self._accelerator, module, "after reading the checkpoint")

    def _restore_chance(self, kept: Checkpoint) -> None:
        """This process's random states; a process that was not there before begins a sequence of its own."""
        rank = self._accelerator.process_index
        like = min(rank, len(kept.state["random"]) - 1)
        states = kept.tensors["random"].items()
        mine = {name.partition(":")[2]: state for name, state in states if name.startswith(f"{like}:")}
        checkpoints.restore_random_state(mine, kept.state["random"][like], *self._models)
        if rank > like:
            torch.manual_seed(hash((self.task.settings.seed, kept.step, rank)))
