"""How does a CMAE step scale over processes, and what does that say of 32 GPUs?

    python tools/benchmarks/scaling.py                                  # 1, 2 and 4 CPU processes, a small model
    python tools/benchmarks/scaling.py --size base --device cuda        # every GPU of this machine
    python tools/benchmarks/scaling.py --predict --gpu-step-ms 400      # 32 GPUs, from one GPU's step

Each process has the same batch. Processes run once together (one model, gradients summed, statistics and keys
exchanged) and once apart (as many, each for itself): the ratio is the price of communication, the same cores being
busy in both. Processes that share cores are slower, together or apart.

The prediction is a written model (tools/benchmarks/_scaling_model.py): bytes a step over link speeds, beside the
step of one GPU, which `pretrain_step.py --device cuda` measures. Its assumptions are printed with it.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta

import torch
import torch.distributed as dist

import cmae_mm.compat  # noqa: F401  (before torchvision)

# isort: split

from _pretrain_recipes import SIZES, Setting, TrainingStep, master_batch, our_recipe
from _scaling_model import CLUSTERS, Assumptions, predict, traffic_of
from _workers import ANSWER
from mmengine.logging import MMLogger
from mmengine.model import MMDistributedDataParallel

from cmae_mm.cli import guard
from cmae_mm.engine.cpu import fit_to_cpu, keep_memory
from cmae_mm.errors import UserError


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line.

    Raises:
        UserError: More processes than GPUs.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--size", choices=SIZES, default="mini")
    parser.add_argument("--batch", type=int, default=8, help="images of each process (default: %(default)s)")
    parser.add_argument("--processes", type=int, nargs="+", help="default: 1 2 4, on GPUs up to all of them")
    parser.add_argument("--steps", type=int, default=5, help="steps that are timed (default: %(default)s)")
    parser.add_argument("--predict", action="store_true", help="only predict, for the full-size model")
    parser.add_argument("--gpus", type=int, nargs="+", default=[8, 16, 32, 64], help="to predict for")
    parser.add_argument(
        "--gpu-step-ms", type=float, help="measured step of one GPU at 128 images, for the prediction"
    )
    parser.add_argument("--part", choices=("together", "apart"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.device == "auto":
        args.device = "cuda" if torch.cuda.is_available() else "cpu"
    available = torch.cuda.device_count() if args.device == "cuda" else 4
    args.processes = args.processes or [n for n in (1, 2, 4, 8) if n <= available]
    if args.device == "cuda" and max(args.processes) > available:
        raise UserError(f"--processes {max(args.processes)}: this machine has {available} GPUs")
    return args


def work(args: argparse.Namespace) -> None:
    """Be one process: train some steps, print the seconds of each."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    device = torch.device("cuda", rank) if args.device == "cuda" else torch.device("cpu")
    together = args.part == "together" and world > 1
    MMLogger.get_current_instance().setLevel("ERROR")
    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), world, rank == 0)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // world))
        keep_memory()
    if together:
        backend = "nccl" if device.type == "cuda" else "gloo"
        prefixed = dist.PrefixStore("group", store)
        dist.init_process_group(
            backend, store=prefixed, rank=rank, world_size=world, timeout=timedelta(minutes=10)
        )
    setting = Setting(args.size, args.batch, device, "bf16" if device.type == "cuda" else "fp32", False)
    fit = {} if device.type == "cuda" and together else {"fit": fit_to_cpu}
    step = TrainingStep(our_recipe(), master_batch(setting, margin=True), setting, **fit)
    if together:
        ids = [rank] if device.type == "cuda" else None
        step.model = MMDistributedDataParallel(step.model, device_ids=ids, broadcast_buffers=False)
    step(), step()  # the first makes the optimizer's state
    store.set(f"ready-{rank}", "1")
    store.wait([f"ready-{other}" for other in range(world)], timedelta(minutes=10))
    start = time.perf_counter()
    for _ in range(args.steps):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    print(ANSWER, (time.perf_counter() - start) / args.steps, flush=True)
    store.set(f"done-{rank}", "1")
    store.wait([f"done-{other}" for other in range(world)], timedelta(minutes=10))


def measure(part: str, world: int, argv: Sequence[str]) -> float:
    """Run so many processes and give the seconds of a step, the median over processes.

    Raises:
        UserError: One of them failed.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(world)}
    command = [sys.executable, __file__, *argv, "--part", part]
    processes = [
        subprocess.Popen(command, env=shared | {"RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(world)
    ]
    seconds = []
    for process in processes:
        out, _ = process.communicate()
        lines = [line for line in out.splitlines() if line.startswith(ANSWER)]
        if process.returncode or not lines:
            raise UserError(f"a process of {world} failed, see above")
        seconds.append(float(lines[-1].removeprefix(ANSWER)))
    return statistics.median(seconds)


def measured(args: argparse.Namespace, argv: Sequence[str]) -> None:
    """Print the steps of growing numbers of processes."""
    print(f"CMAE {args.size}, {args.batch} images a process, {args.device}, {os.cpu_count()} cores")
    print("processes   step together   step apart   in communication   images/s together")
    for world in args.processes:
        together, apart = (measure(part, world, argv) for part in ("together", "apart"))
        share = max(0.0, 1 - apart / together)
        rate = world * args.batch / together
        print(f"{world:9d} {together:13.4f} s {apart:10.4f} s {share:17.0%} {rate:19.2f}")


def predicted(args: argparse.Namespace) -> None:
    """Print what the model says of clusters, for ViT-B and 128 images a GPU."""
    from mmengine.registry import MODELS, DefaultScope

    config = our_recipe()
    with DefaultScope.overwrite_default_scope(config.default_scope):
        model = MODELS.build(config.model)
    batch = config.train_dataloader.batch_size
    traffic = traffic_of(model, batch, config.model.projector.out_channels)
    assumed, step = Assumptions(), args.gpu_step_ms and args.gpu_step_ms / 1000
    print(
        f"\nCMAE ViT-B, {batch} images a GPU. Sent by a process in a step: gradients {traffic.gradients / 1e6:.0f} MB,"
    )
    print(f"keys {traffic.keys / 1e6:.2f} MB, statistics of {traffic.layers} layers of batch norm")
    print("assumed: " + ", ".join(f"{name} {value:g}" for name, value in asdict(assumed).items()))
    if step is None:
        print(
            "no step of one GPU given (--gpu-step-ms): only what nothing hides, the whole sum of gradients included"
        )
    else:
        print(f"step of one GPU alone, as given: {1000 * step:.1f} ms")
    for cluster in CLUSTERS.values():
        print(f"\n{cluster.name}: {cluster.inside:g} GB/s inside a node, {cluster.outside:g} GB/s out of it")
        for gpus in args.gpus:
            found = predict(traffic, cluster, gpus, step, assumed)
            line = f"{gpus:5d} GPUs: gradients {1000 * found.gradients:6.1f} ms, adds {1000 * found.exposed:6.1f} ms"
            if found.step is not None and found.efficiency is not None:
                rate = gpus * batch / found.step
                line += f", step {1000 * found.step:.1f} ms, {rate:.0f} images/s, efficiency {found.efficiency:.1%}"
            print(line)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, predict and print.

    Args:
        argv: Words of the command line; those of the process if None.

    Returns:
        Exit code 0.
    """
    args = parse(argv)
    if args.part:
        work(args)
        return 0
    if not args.predict:
        measured(args, sys.argv[1:] if argv is None else argv)
    predicted(args)
    return 0


if __name__ == "__main__":
    guard(main)
