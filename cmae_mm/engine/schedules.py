"""The states of mmengine's schedules, and what they would be at another iteration."""

from __future__ import annotations

import copy
import warnings
from typing import Any

_INITIAL = "initial_"


def states_of_schedules(schedules: Any) -> Any:
    """Collect the states as mmengine's runner does.

    Args:
        schedules: A list of schedules, or a dict of lists by the name of an optimizer.

    Returns:
        The states in the same arrangement.
    """
    if isinstance(schedules, dict):
        return {name: states_of_schedules(some) for name, some in schedules.items()}
    return [schedule.state_dict() for schedule in schedules]


def base_values(optim_wrapper: Any) -> list[dict[str, float]]:
    """Take down where schedules start.

    Args:
        optim_wrapper: Of one optimizer, whose schedules are built.

    Returns:
        For each group of parameters the values before any schedule, by name, such as ``lr``.
    """
    groups = optim_wrapper.param_groups
    return [{k.removeprefix(_INITIAL): v for k, v in g.items() if k.startswith(_INITIAL)} for g in groups]


def replay_schedules(
    runner: Any, recipe: Any, bases: list[dict[str, float]], iterations: int, per_epoch: int
) -> None:
    """Bring schedules where they would be if epochs had always had this many iterations.

    A schedule of mmengine computes each value from the one before, so schedules are built anew from the config and
    stepped to where the run is, in the order in which training steps them.

    Args:
        runner: A runner that was resumed; changed in place.
        recipe: What the config says of schedules.
        bases: See `base_values`.
        iterations: That are done.
        per_epoch: Iterations in an epoch.
    """
    for group, values in zip(runner.optim_wrapper.param_groups, bases, strict=True):
        for name, value in values.items():
            group[name] = group[_INITIAL + name] = value
    schedules = runner.build_param_scheduler(copy.deepcopy(recipe))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch expects steps of the optimizer between those of schedules
        for done in range(1, iterations + 1):
            _step(schedules, by_epoch=False)
            if done % per_epoch == 0:
                _step(schedules, by_epoch=True)
    runner.param_schedulers = schedules


def _step(schedules: list[Any], by_epoch: bool) -> None:
    for schedule in schedules:
        if schedule.by_epoch == by_epoch:
            schedule.step()
