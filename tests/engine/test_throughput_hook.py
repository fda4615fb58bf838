"""Under a clock that goes on by one second each time the hook looks at it, every figure is known exactly.

One iteration has three looks: batch came, step done, all hooks done. So it takes 3 s, 1 s of it waiting for data.
"""

import itertools
import json
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook, LoggerHook
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner

import cmae_mm.compat  # noqa: F401  (before torchvision, which mmengine imports)
import cmae_mm.engine.throughput_hook as module
from cmae_mm.engine.throughput_hook import GIB, ThroughputHook, peak_memory


class Tiny(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)

    def forward(self, inputs, mode):
        return {"loss": self.layer(torch.stack(list(inputs))).square().mean()}


class Batches(torch.utils.data.Dataset):
    def __len__(self):
        return self.n

    def __init__(self, n):
        self.n = n

    def __getitem__(self, i):
        return {"inputs": torch.full((3,), float(i))}


@pytest.fixture
def ticking(monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))


def run(tmp_path, images, batch, epochs, accumulate=1, **logger):
    runner = Runner(
        model=Tiny(),
        work_dir=str(tmp_path),
        train_dataloader=dict(
            dataset=Batches(images),
            batch_size=batch,
            num_workers=0,
            sampler=dict(type="DefaultSampler", shuffle=False),
            collate_fn=dict(type="pseudo_collate"),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=OptimWrapper(torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], 0.1), accumulate),
        default_hooks=dict(
            throughput=dict(type=ThroughputHook), checkpoint=None, logger=dict(type="LoggerHook", **logger)
        ),
        experiment_name=tmp_path.name,
        default_scope="mmengine",
    )
    runner.train()
    return 0


@pytest.fixture
def train(call, tmp_path):
    """A function that makes a real run and gives the lines of its JSON log."""

    def make(*args, **logger):
        assert call(lambda _: run(tmp_path, *args, **logger)) == 0
        (log,) = tmp_path.glob("*/vis_data/scalars.json")
        return [json.loads(line) for line in log.read_text().splitlines()]

    return make


def expected(images, batch, epochs, lines):
    """Images, seconds and waiting seconds between the logged iterations, counted one by one."""
    length = -(-images // batch)
    logged = {line["iter"] for line in lines}
    window, out = [], []
    for i in range(epochs * length):
        first = i % length == 0
        size = batch if (i + 1) % length else images - (length - 1) * batch
        # After the start of an epoch: one look for the batch, one for the step. Else three, of which one ended the
        # hooks of the iteration before.
        window.append((size, 2 if first else 3, 1))
        if i + 1 in logged:
            total = [sum(column) for column in zip(*window, strict=True)]
            out.append((total[0] / total[1], total[2] / total[1]))
            window = []
    return out


@pytest.mark.parametrize(
    ("images", "batch", "epochs", "accumulate", "logger"),
    [
        (24, 4, 2, 1, dict(interval=1)),
        (24, 4, 2, 2, dict(interval=2)),
        (24, 4, 2, 4, dict(interval=3)),
        (26, 4, 3, 1, dict(interval=3)),
        (26, 4, 3, 3, dict(interval=3, ignore_last=False)),
        (20, 4, 3, 1, dict(interval=50)),
    ],
)
def test_each_line_of_the_log_covers_what_came_since_the_last(
    train, ticking, images, batch, epochs, accumulate, logger
):
    lines = train(images, batch, epochs, accumulate, **logger)
    assert len(lines) >= epochs
    found = [(line["images_per_s"], line["data_wait"]) for line in lines]
    for have, want in zip(found, expected(images, batch, epochs, lines), strict=True):
        assert have == pytest.approx(want)


def test_the_log_line_names_all_three(train, tmp_path):
    train(8, 2, 1, interval=2)
    (log,) = tmp_path.glob("*/*.log")
    line = [text for text in log.read_text().splitlines() if "Epoch(train)" in text][-1]
    assert all(f"  {name}: " in line for name in ("images_per_s", "data_wait", "memory_gib"))


def fake_runner():
    hub = MessageHub("throughput")
    runner = SimpleNamespace(
        hooks=[ThroughputHook(), LoggerHook(interval=1)], message_hub=hub, train_dataloader=[None] * 10
    )
    runner.register_hook = runner.hooks.append
    return runner, runner.hooks[0]


def test_only_the_loader_counts_as_waiting(monkeypatch):
    """Steps of 5 s, hooks after the step of 2 s, 1 s for the loader; an evaluation of 100 s is in no window."""
    now = [0.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    runner, hook = fake_runner()
    hook.before_train(runner)
    (over,) = [h for h in runner.hooks if type(h) not in (ThroughputHook, LoggerHook)]
    hook.before_train(runner)
    assert len(runner.hooks) == 3  # asked once, also where a runner trains twice
    hook.before_train_epoch(runner)
    shares = []
    for i in range(4):
        now[0] += 1
        hook.before_train_iter(runner, i)
        now[0] += 5
        hook.after_train_iter(runner, i, {"inputs": [0] * 16})
        shares.append(runner.message_hub.get_scalar("train/data_wait").current())
        now[0] += 2
        over.after_train_iter(runner, i)
        if i == 1:
            now[0] += 100
            hook.after_val_epoch(runner)
    assert shares == pytest.approx([1 / 6, 1 / 8, 1 / 6, 1 / 8])
    assert runner.message_hub.get_scalar("train/images_per_s").current() == pytest.approx(16 / 8)


def test_without_a_logger_nothing_is_published(ticking):
    runner, hook = fake_runner()
    runner.hooks.pop()
    hook.before_train(runner)
    hook.before_train_epoch(runner)
    hook.before_train_iter(runner, 0)
    hook.after_train_iter(runner, 0, {"inputs": [0]})
    assert not runner.message_hub.log_scalars


def test_histories_are_shortened_without_changing_means(monkeypatch, ticking):
    monkeypatch.setattr(module, "HISTORY", 5)
    runner, hook = fake_runner()
    whole = HistoryBuffer()
    hook.before_train(runner)
    hook.before_train_epoch(runner)
    for i in range(20):
        runner.message_hub.update_scalar("train/loss", i**2)
        whole.update(i**2)
        hook.before_train_iter(runner, i)
        hook.after_train_iter(runner, i, {"inputs": [0]})
    short = runner.message_hub.get_scalar("train/loss")
    assert len(short.data[0]) == 5
    assert short.mean(4) == whole.mean(4)


def test_runs_before_the_logger_and_measures_from_the_last_hook():
    from mmengine.runner import get_priority

    assert get_priority(ThroughputHook.priority) < get_priority(LoggerHook.priority)
    assert all(
        get_priority(module._IterationOver.priority) >= get_priority(h) for h in ("LOWEST", "VERY_LOW")
    )
    assert issubclass(module._IterationOver, Hook)


def test_memory_is_that_of_this_process():
    """Against what the kernel says; a block of 64 MiB is seen."""
    before = peak_memory()
    block = torch.ones(64 * 2**20 // 4)
    after = peak_memory()
    if torch.cuda.is_available():
        assert after == torch.cuda.max_memory_allocated()
        return
    assert block.sum() > 0
    with open("/proc/self/status") as status:
        peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    assert before <= after
    assert after == pytest.approx(peak, rel=0.1)
    assert 0.05 < after / GIB < 100
