"""Multi-View MAE ablation. The mean of the visible patches represents a view.

The paper leaves open which token does.
"""

from mmengine.config import read_base

with read_base():
    from ...._base_.recipes.mv_mae_vit_b_p16 import *

model.update(pool="avg")
