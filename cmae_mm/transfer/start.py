"""How a dense backbone starts from a backbone file."""

from __future__ import annotations

from collections.abc import Callable

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import nn

from cmae_mm.checkpoints import load_into

# What a backbone file may lack (relative positions, layer scale and the norm after pooling are new in the transfer,
# some encoders have no class token) or hold in vain (a dense backbone ends without the final norm; ViTDet drops the
# class token; the hybrid has no multi-scale sum, and UperNet adds a fourth map to it).
OPTIONAL_KEYS = (
    r"\.rel_pos_[hw]$",
    r"\.relative_position_bias_table$",
    r"\.ls[12]\.gamma$",
    r"^cls_token$",
    r"^norm\.",
    r"^fc_norm\.",
    r"^stage[12]_output_decode\.",
    r"^fourth\.",
)


def start_from_file(
    backbone: nn.Module, path: str | None, rename: Callable[[str], str] | None = None
) -> None:
    """Copy the encoder of a backbone file into a dense backbone and log the report.

    Layer scales that the file does not have become one, so that the features are those of the encoder.

    Args:
        backbone: Changed in place.
        path: Backbone file; None changes nothing.
        rename: Turns a key of the backbone into that of the file.

    Raises:
        UserError: If the file does not fit this architecture.
    """
    if path is None:
        return
    report = load_into(backbone, path, rename=rename, optional=OPTIONAL_KEYS)
    own = backbone.state_dict()
    scales = [key for key in report.missing if key.endswith(".gamma")]
    with torch.no_grad():
        for key in scales:
            own[key].fill_(1.0)
    if scales:
        report.notes.append("no layer scale in the file: those of the model are one")
    print_log(str(report), logger="current")


class StartsFromFile(BaseModule):
    """A dense backbone whose ``init_weights`` loads ``backbone_file``, an attribute of it, if that names one."""

    backbone_file: str | None

    def draw_weights(self, *tokens: nn.Parameter | None) -> None:
        """Draw tokens and linear layers at random, as ViTs start; biases are zero.

        Args:
            *tokens: Tables and tokens that are there; None is left out.
        """
        linear = [module for module in self.modules() if isinstance(module, nn.Linear)]
        for weight in (*(t for t in tokens if t is not None), *(layer.weight for layer in linear)):
            nn.init.trunc_normal_(weight, std=0.02)
        for layer in linear:
            nn.init.zeros_(layer.bias)

    def init_weights(self) -> None:
        """Apply ``init_cfg``, then load ``backbone_file``.

        Raises:
            UserError: If the file does not fit this architecture.
        """
        super().init_weights()
        start_from_file(self, self.backbone_file)
