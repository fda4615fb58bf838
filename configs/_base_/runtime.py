"""What every run shares: hooks, log, checkpoints. Says nothing about devices (the suite decides)."""

from mmengine.hooks import DistSamplerSeedHook, IterTimerHook, LoggerHook, ParamSchedulerHook, RuntimeInfoHook
from mmengine.visualization import LocalVisBackend, Visualizer

from cmae_mm.engine.checkpoint_hook import SuiteCheckpointHook
from cmae_mm.engine.heartbeat import HeartbeatHook
from cmae_mm.engine.stopping import StopHook

default_scope = "mmpretrain"
default_hooks = dict(
    runtime_info=dict(type=RuntimeInfoHook),
    timer=dict(type=IterTimerHook),
    logger=dict(type=LoggerHook, interval=50),
    param_scheduler=dict(type=ParamSchedulerHook),
    checkpoint=dict(type=SuiteCheckpointHook, interval=1, max_keep_ckpts=2),
    sampler_seed=dict(type=DistSamplerSeedHook),
    heartbeat=dict(type=HeartbeatHook, least=300, factor=20, other=1800),  # seconds, of an iteration, seconds
    stop=dict(type=StopHook, grace=120),  # seconds from SIGTERM or SIGUSR1 to the end
)
env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend="nccl", timeout=1800),  # seconds a process waits for the others
)
visualizer = dict(type=Visualizer, vis_backends=[dict(type=LocalVisBackend)])
log_level = "INFO"
load_from = None
resume = False
randomness = dict(seed=0, diff_rank_seed=True)  # each process draws its own masks, drop path and mixup
