"""Saves checkpoints: by epochs, by iterations, or both; the last ones and every so many are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS

from cmae_mm.engine.checkpoint_file import (
    checkpoints_in,
    read_note,
    remove_checkpoint,
    remove_parts,
    write_text,
)
from cmae_mm.errors import UserError

NOTE = "last_checkpoint"


@HOOKS.register_module()
class SuiteCheckpointHook(CheckpointHook):
    """mmengine's hook with files that a crash cannot spoil, written while the run goes on.

    An old checkpoint is removed only after the new one is whole on the disk, so there is room needed for one more
    than are kept.

    Args:
        interval: See mmengine: every so many epochs, or iterations if ``by_epoch=False``.
        iter_interval: With ``by_epoch=True``: also save ``iter_N.pth`` every so many iterations.
        max_keep_ckpts: Keep the last so many; -1 keeps all.
        keep_every: Of those that would be removed, keep each whose epoch (iteration if ``by_epoch=False``) is a
            multiple of this.
        **kwargs: See mmengine. ``save_optimizer=False`` saves the weights alone: a run cannot go on from these.

    Raises:
        UserError: An interval is no positive number, or ``out_dir`` is no local folder.
    """

    max_keep_ckpts: int
    file_backend: Any

    def __init__(
        self,
        interval: int = -1,
        iter_interval: int | None = None,
        max_keep_ckpts: int = -1,
        keep_every: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(interval=interval, max_keep_ckpts=max_keep_ckpts, **kwargs)
        for name, value in (("iter_interval", iter_interval), ("keep_every", keep_every)):
            if value is not None and value < 1:
                raise UserError(f"checkpoint hook: {name} is {value}; set a whole number above 0, or None")
        if "://" in str(self.out_dir or ""):
            raise UserError(
                f"checkpoint hook: out_dir is {self.out_dir}; set a folder of a local or mounted disk"
            )
        self.iter_interval, self.keep_every = iter_interval, keep_every
        self.saved_at = -1  # iterations done when a checkpoint was last saved
        self._kept: list[Path] = []

    def before_train(self, runner: Any) -> None:
        """Find the folder, remove what killed writers left, and take over what a resumed run kept."""
        keep, self.max_keep_ckpts = self.max_keep_ckpts, -1  # mmengine would remove files by number
        super().before_train(runner)
        self.max_keep_ckpts = keep
        folder = Path(self.out_dir)
        if runner.rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
            remove_parts(folder)
            self._kept = _earlier(folder, runner.iter)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Save where a checkpoint by iterations is due."""
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        due = self.by_epoch and self.iter_interval and self.every_n_train_iters(runner, self.iter_interval)
        if due and not (
            self.end_of_epoch(runner.train_dataloader, batch_idx) and self._epoch_is_saved(runner)
        ):
            self.save_now(runner)

    def _epoch_is_saved(self, runner: Any) -> bool:
        """The condition of mmengine's ``after_train_epoch``."""
        regular: bool = self.every_n_epochs(runner, self.interval, self.save_begin)
        return regular or (self.save_last and self.is_last_train_epoch(runner))

    def after_train(self, runner: Any) -> None:
        """Wait for the last checkpoint, then see mmengine."""
        writer = getattr(runner, "writer", None)
        if writer is not None:
            writer.wait()
        super().after_train(runner)

    def save_now(self, runner: Any, whole: bool = False) -> None:
        """Save ``iter_N.pth`` after an iteration, in mid-epoch too; nothing if this was just saved.

        Args:
            runner: The runner.
            whole: With the optimizer's state, even if checkpoints of this run have none.
        """
        done = runner.iter + 1
        if self.saved_at == done and (self.save_optimizer or not whole):
            return
        meta = dict(epoch=runner.epoch, iter=done)
        self._save(runner, f"iter_{done}.pth", meta, whole)

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: dict[str, Any]) -> None:
        self._save(runner, self.filename_tmpl.format(step), meta)

    def _save(self, runner: Any, name: str, meta: dict[str, Any], whole: bool = False) -> None:
        path = Path(self.out_dir) / name
        self.last_ckpt: Any = str(path)
        self.saved_at = meta["iter"]
        runner.message_hub.update_info("last_ckpt", str(path))
        runner.save_checkpoint(
            self.out_dir,
            name,
            save_optimizer=self.save_optimizer or whole,
            save_param_scheduler=self.save_param_scheduler or whole,
            meta=meta,
            then=lambda: self._written(runner.work_dir, path),
            **self.args,
        )

    def _written(self, work_dir: str, path: Path) -> None:
        """In the writer's thread, when a checkpoint is whole: point to it, and make room."""
        write_text(Path(work_dir) / NOTE, str(path))
        self._kept = [p for p in self._kept if p != path] + [path]
        if self.max_keep_ckpts > 0:
            for old in self._kept[: -self.max_keep_ckpts]:
                if not self._is_kept_for_good(old):
                    remove_checkpoint(old)
            self._kept = self._kept[-self.max_keep_ckpts :]

    def _is_kept_for_good(self, path: Path) -> bool:
        number = path.stem.rpartition("_")[2]
        own = self.filename_tmpl.format(number) == path.name
        return bool(self.keep_every and own and number.isdecimal() and int(number) % self.keep_every == 0)

    def _save_best_checkpoint(self, runner: Any, metrics: dict[str, float]) -> None:
        """As mmengine does, but the best checkpoint so far is removed after the better one is written."""
        if not self.save_best:
            return
        before = self._best_files()
        backend, self.file_backend = self.file_backend, _KeepsFiles(self.file_backend)
        try:
            super()._save_best_checkpoint(runner, metrics)
        finally:
            self.file_backend = backend
        if runner.rank == 0:
            for path in before - self._best_files():
                remove_checkpoint(Path(path))

    def _best_files(self) -> set[str]:
        several = getattr(self, "best_ckpt_path_dict", {})
        found = [getattr(self, "best_ckpt_path", None), *several.values()]
        return {str(path) for path in found if path}


class _KeepsFiles:
    """A file backend that finds nothing, so that mmengine removes nothing."""

    def __init__(self, backend: Any) -> None:
        self.join_path = backend.join_path

    def isfile(self, path: str) -> bool:
        return False

    isdir = isfile


def _earlier(folder: Path, iteration: int) -> list[Path]:
    """Checkpoints of the part of this run before it was resumed; those of another run are nobody's to remove."""
    if iteration == 0:
        return []
    notes = [(read_note(p), p) for p in reversed(checkpoints_in(folder))]
    return [p for note, p in notes if note is not None and note.iteration <= iteration]


def checkpoint_hook(runner: Any) -> SuiteCheckpointHook | None:
    """Returns: The hook of a runner that saves, if it has one.

    Args:
        runner: A runner.
    """
    return next((hook for hook in runner.hooks if isinstance(hook, SuiteCheckpointHook)), None)


def last_checkpoint(work_dir: str) -> Path | None:
    """Read what ``last_checkpoint`` names.

    Args:
        work_dir: Of a run.

    Returns:
        The path, which need not exist; None without a note.

    Raises:
        UserError: The note is no text.
    """
    note = Path(work_dir) / NOTE
    if not note.is_file():
        return None
    try:
        text = note.read_text().strip()
    except UnicodeDecodeError:
        raise UserError(f"{note}: is damaged; name the checkpoint with --resume FILE") from None
    return Path(text) if text else None
