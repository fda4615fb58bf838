"""Fine-tuning of ViT-B/16 after CMAE's code: MAE's recipe, but two details of weight decay and of the schedule.

The weight of the norm after pooling decays: its authors exempt names with `.ln`, and that norm has another name there.
And every layer ends at a learning rate of 1e-6, where MAE scales the end too.
"""

from mmengine.config import read_base

with read_base():
    from .finetune_vit_b_p16 import *

optim_wrapper["paramwise_cfg"].update(
    no_decay=dict(
        faithful=(r"\.layers\.\d+\.ln\d\.", r"\.bias$", r"\.pos_embed$", r"\.cls_token$"),
        intended=("ndim1", r"\.pos_embed$", r"\.cls_token$"),
    ),
    reading="faithful",
)
param_scheduler[1].pop("eta_min_ratio")
param_scheduler[1].update(eta_min=1e-6)
