"""The random generators of every process, kept in checkpoints and put back when a run goes on."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from mmengine import dist
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import Tensor

STATES = "random_states"  # in a checkpoint


def random_state() -> dict[str, Any]:
    """Returns: The state of this process's generators, as tensors and numbers only."""
    version, words, gauss = random.getstate()
    kind, keys, place, has_gauss, cached = np.random.get_state()
    state = {
        "python": {"version": version, "words": torch.tensor(words, dtype=torch.int64), "gauss": gauss},
        "numpy": {
            "kind": str(kind),
            "keys": torch.from_numpy(np.asarray(keys).astype(np.int64)),
            "rest": [int(place), int(has_gauss), float(cached)],
        },
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Put the generators of this process back.

    Args:
        state: Of `random_state`. A state of the GPU is left out where there is none.
    """
    python, numpy = state["python"], state["numpy"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    np.random.set_state((numpy["kind"], numpy["keys"].numpy().astype(np.uint32), *numpy["rest"]))
    torch.set_rng_state(_bytes(state["torch"]))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(_bytes(state["cuda"]))


def _bytes(state: Tensor) -> Tensor:
    return state.to("cpu", torch.uint8)


def gather_random_states() -> list[dict[str, Any]]:
    """Returns: The states of all processes, by rank. All must call it; some 10 kB a process travel."""
    states: list[dict[str, Any]] = dist.all_gather_object(random_state())
    return states


@HOOKS.register_module()
class RandomStateHook(Hook):
    """Lets a resumed run draw what the stopped one would have drawn.

    What happens beside training draws nothing from it: an evaluation leaves the generators as they were, so that a
    run that goes on from a checkpoint before an evaluation need not repeat it.
    """

    priority = "HIGHEST"

    def __init__(self) -> None:
        self._resumed: dict[str, Any] | None = None
        self._before: dict[str, Any] | None = None

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Take the state of this process out of the checkpoint that the run resumes from."""
        if not runner._resume:
            return
        states = checkpoint.get(STATES) or []
        if runner.rank < len(states):
            self._resumed = states[runner.rank]
        else:
            runner.logger.warning(
                f"the checkpoint has random states of {len(states)} processes, but this is process {runner.rank}: "
                "it draws from its seed, other numbers than the stopped run would have drawn"
            )

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Put the generators back, once, after all that building a run drew from them."""
        if self._resumed is not None:
            state, self._resumed = self._resumed, None
            set_random_state(state)

    def before_val(self, runner: Any) -> None:
        """Keep the state."""
        self._before = random_state()

    def after_val(self, runner: Any) -> None:
        """Put the state back."""
        if self._before is not None:
            set_random_state(self._before)
