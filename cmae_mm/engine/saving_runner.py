"""The half of the suite's runner that saves: all of a run, from all processes, while it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmengine
from mmengine import dist
from mmengine.runner import Runner

from cmae_mm.engine.checkpoint_writer import CheckpointWriter, snapshot
from cmae_mm.engine.environment import bare_model
from cmae_mm.engine.finite_hook import EXIT_CODE
from cmae_mm.engine.loops import ResumableEpochLoop
from cmae_mm.engine.random_states import STATES, gather_random_states
from cmae_mm.engine.schedules import states_of_schedules
from cmae_mm.engine.sharding import is_split, whole
from cmae_mm.errors import UserError

POSITION = "position"  # in a checkpoint: iterations done of the epoch, and how many it has


class SavingRunner(Runner):
    """mmengine's runner with a writer of checkpoints.

    Attributes:
        writer: Of checkpoints.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.writer = CheckpointWriter()
        self._config_text = ""
        super().__init__(*args, **kwargs)

    def stop_together(self, complaint: list[str]) -> None:
        """End all processes if the first one has a complaint; only that one says it.

        Args:
            complaint: One sentence, or an empty one.

        Raises:
            UserError: The sentence.
        """
        dist.broadcast_object_list(complaint)
        if complaint[0]:
            if self.rank == 0:
                raise UserError(complaint[0])
            raise SystemExit(EXIT_CODE)

    def save_checkpoint(
        self,
        out_dir: str,
        filename: str,
        file_client_args: dict[str, Any] | None = None,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        meta: dict[str, Any] | None = None,
        by_epoch: bool = True,
        backend_args: dict[str, Any] | None = None,
        then: Callable[[], None] | None = None,
    ) -> None:
        """Save the whole run. All processes must call it; the first one writes.

        Args:
            out_dir: Folder.
            filename: Name in it.
            file_client_args: Unused: checkpoints are written to local or mounted disks.
            save_optimizer: Save what is needed to go on, beside the weights.
            save_param_scheduler: Save the schedules.
            meta: ``epoch`` and ``iter`` that are done; see mmengine where they are missing.
            by_epoch: See mmengine.
            backend_args: Unused.
            then: Write in the background, and call this (in a thread) when the file is whole. If None, the file
                is whole when this returns.

        Raises:
            UserError: The disk has no room, an earlier checkpoint could not be written, or weights are not finite
                (process 0; the others exit quietly).
        """
        meta = dict(meta or {})
        meta.setdefault("epoch", self.epoch + int(by_epoch))
        meta.setdefault("iter", self.iter + int(not by_epoch))
        states = gather_random_states() if save_optimizer else []
        weights = bare_model(self).state_dict()
        optimizer = self.optim_wrapper.state_dict() if save_optimizer else None
        if is_split(bare_model(self)):  # it takes all processes to put it together
            weights, optimizer = whole(weights), whole(optimizer)
        complaint = [""]
        if self.rank == 0:
            try:
                self._write(
                    Path(out_dir) / filename, meta, weights, optimizer, save_param_scheduler, states, then
                )
            except UserError as error:
                complaint = [str(error)]
        self.stop_together(complaint)

    def _write(
        self,
        path: Path,
        meta: dict[str, Any],
        weights: dict[str, Any],
        optimizer: dict[str, Any] | None,
        save_param_scheduler: bool,
        states: list[dict[str, Any]],
        then: Callable[[], None] | None,
    ) -> None:
        self.writer.wait()
        checkpoint: dict[str, Any] = {
            "meta": {**meta, **self._about()},
            "state_dict": weights,
            "message_hub": self.message_hub.state_dict(),
        }
        if optimizer is not None:
            checkpoint["optimizer"] = optimizer
            checkpoint[STATES] = states
            loop = self.train_loop
            if isinstance(loop, ResumableEpochLoop):
                done = loop.done_in_epoch(meta["epoch"], meta["iter"])
                checkpoint[POSITION] = {"done": done, "iterations": len(loop.dataloader)}
        if save_param_scheduler and self.param_schedulers is not None:
            checkpoint["param_schedulers"] = states_of_schedules(self.param_schedulers)
        self.call_hook("before_save_checkpoint", checkpoint=checkpoint)
        self.writer.start(snapshot(checkpoint), path, then)
        if then is None:
            self.writer.wait()

    def _about(self) -> dict[str, Any]:
        """What stands in each checkpoint of a run; the config's text takes a second to make."""
        if not self._config_text:
            self._config_text = self.cfg.pretty_text
        return {
            "cfg": self._config_text,
            "seed": self.seed,
            "experiment_name": self.experiment_name,
            "time": time.strftime("%Y%m%d_%H%M%S", time.localtime()),
            "mmengine_version": mmengine.__version__,
        }
