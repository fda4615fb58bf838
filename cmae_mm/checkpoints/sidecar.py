"""The JSON files that hubs put beside weights: what they say of input and attention heads."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmae_mm.errors import UserError


@dataclass
class Sidecar:
    """What stands beside a weights file.

    Attributes:
        mean: Mean per channel in 0..255 units; None if nothing says it.
        std: Standard deviation per channel in 0..255 units; None if nothing says it.
        heads: Attention heads; None if nothing says it.
        eps: Epsilon of the layer norms; None if nothing says it.
        files: Names of the files that were read.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    heads: int | None = None
    eps: float | None = None
    files: tuple[str, ...] = ()


def read_sidecar(path: str | Path) -> Sidecar:
    """Read ``config.json`` and ``preprocessor_config.json`` in the folder of a weights file.

    Args:
        path: Weights file.

    Returns:
        What they say; empty if there are none.

    Raises:
        UserError: If one is damaged, or names an activation that is not supported.
    """
    folder = Path(path).parent
    config, processor = (_read(folder / name) for name in ("config.json", "preprocessor_config.json"))
    found = Sidecar(
        files=tuple(n for n, v in (("config.json", config), ("preprocessor_config.json", processor)) if v)
    )
    activation = config.get("hidden_act", "gelu")
    if activation != "gelu":
        raise UserError(f"{folder / 'config.json'}: the activation is {activation}, encoders here have gelu")
    found.heads, found.eps = config.get("num_attention_heads"), config.get("layer_norm_eps")
    timm = config.get("pretrained_cfg")
    for source, mean, std in ((timm, "mean", "std"), (processor, "image_mean", "image_std")):
        if isinstance(source, dict) and mean in source and std in source:
            found.mean, found.std = _units(source[mean]), _units(source[std])
    return found


def _units(values: list[float]) -> tuple[float, ...]:
    return tuple(round(255 * float(v), 4) for v in values)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: is not readable JSON ({error}); repair or remove it") from None
    return content if isinstance(content, dict) else {}
