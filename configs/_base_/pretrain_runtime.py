"""What every pretraining run shares: runtime.py, and what the run tells while it trains (docs/monitoring.md).

A recipe switches on the looks that need labelled or held-out images, with datasets of its own:

    default_hooks.update(
        knn=dict(type=KNNProbeHook, bank=dict(type=MasterImages, ...), queries=dict(type=MasterImages, ...)),
        reconstruction=dict(type=ReconstructionHook, images=dict(type=MasterImages, ...)),
    )
"""

from mmengine.config import read_base
from mmengine.runner import LogProcessor
from mmengine.visualization import TensorboardVisBackend

from cmae_mm.engine.data_health import DataHealthHook
from cmae_mm.engine.finite_hook import FiniteLossHook
from cmae_mm.engine.throughput_hook import ThroughputHook
from cmae_mm.pretrain.curves import CurvesHook

with read_base():
    from .runtime import *

# Default hooks, not custom ones: custom_hooks is a list, and the list of a schedule would replace this one.
default_hooks.update(
    throughput=dict(type=ThroughputHook),
    data_health=dict(type=DataHealthHook),
    finite_loss=dict(type=FiniteLossHook),
    curves=dict(type=CurvesHook, interval=10),
)
# A line of the log is the mean of all iterations since the last one: window_size = default_hooks.logger.interval.
# mmengine's own pattern has losses and times; the statistics of a single batch are too noisy to be read alone.
log_processor = dict(
    type=LogProcessor,
    window_size=50,
    mean_pattern=r".*(loss|time|grad_norm|raw_|con_acc|_sim|_std).*",
)
visualizer.update(vis_backends=[dict(type=LocalVisBackend), dict(type=TensorboardVisBackend)])
