"""What a launcher is, and how a stage's command becomes one for several processes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from cmae_mm.benchmark.recipe import ROOT
from cmae_mm.benchmark.stages import Stage


@dataclass(frozen=True)
class Ended:
    """A stage that does not run any more.

    Attributes:
        stage: Which one.
        code: Exit code of its runner; None if only the batch system knows.
        state: What the batch system says; empty on this machine.
    """

    stage: Stage
    code: int | None
    state: str = ""


class Launcher(ABC):
    """Starts runners of stages and tells when they end."""

    ahead = False
    """Whether a stage may be handed over before what it needs has ended."""

    pause = 0.3
    """Seconds between two looks."""

    @abstractmethod
    def has_room(self, stage: Stage) -> bool:
        """Returns: Whether a stage can be started now."""

    @abstractmethod
    def command(self, stage: Stage) -> list[str]:
        """Returns: The command of a stage with what this launcher adds for several processes or fewer GPUs."""

    @abstractmethod
    def start(self, stage: Stage, after: Collection[str]) -> str:
        """Start a stage.

        Args:
            stage: To start.
            after: Names of running stages that must end well before.

        Returns:
            A remark for people; mostly empty.
        """

    def submit(self) -> list[str]:
        """Hand over what :meth:`start` only noted, where a launcher does that.

        Returns:
            Remarks for people.
        """
        return []

    @abstractmethod
    def ended(self) -> list[Ended]:
        """Returns: The stages that ended since the last look."""

    @abstractmethod
    def stop(self, names: Collection[str] | None = None) -> None:
        """Stop running stages: those named, or all."""

    def timed(self, stage: Stage) -> Stage:
        """Returns: The stage with the duration that is expected here."""
        return stage

    def adopt(self, stages: Sequence[Stage]) -> list[Stage]:
        """Find stages that an earlier benchmark handed over and that still run.

        Args:
            stages: Of the plan.

        Returns:
            Those found; they count as started.
        """
        return []


def several(stage: Stage, processes: int) -> list[str]:
    """A command that runs a stage with torchrun on this machine.

    Args:
        stage: Of ``tools/train.py`` or ``tools/test.py``; others run as they are.
        processes: GPUs to use.

    Returns:
        The command.
    """
    argv = list(stage.argv)
    if processes < 2 or stage.program not in ("train", "test"):
        return argv
    script = str(ROOT / "tools" / f"dist_{stage.program}.sh")
    positional = 1 if stage.program == "train" else 2  # config, and for a test the checkpoint
    words = argv[2:]
    return ["bash", script, *words[:positional], str(processes), *words[positional:]]


def keep_batch(stage: Stage, command: list[str], processes: int) -> list[str]:
    """Add up gradients where fewer GPUs are there than the recipe counts on.

    Args:
        stage: To run.
        command: What runs it.
        processes: GPUs that it gets.

    Returns:
        The command; options of the config stay last.
    """
    if stage.program != "train" or processes >= stage.cost.gpus:
        return command
    place = command.index("--cfg-options") if "--cfg-options" in command else len(command)
    return [*command[:place], "--accumulate", *command[place:]]
