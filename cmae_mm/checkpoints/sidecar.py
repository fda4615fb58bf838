"""The JSON files that hubs put beside weights: what they say of input and attention heads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmae_mm.checkpoints.plain_json import parse_json
from cmae_mm.errors import UserError

_MOST = 1 << 22  # bytes; with the names of 20,000 classes such a file has one million


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
            found.mean, found.std = (_units(source[name], folder) for name in (mean, std))
    return found


def _units(values: Any, folder: Path) -> tuple[float, ...]:
    if not isinstance(values, list) or not all(type(v) in (int, float) and abs(v) < 1e6 for v in values):
        raise UserError(f"{folder}: a mean or deviation in its JSON files is no list of numbers; repair it")
    return tuple(round(255 * float(v), 4) for v in values)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > _MOST:
            raise ValueError(f"it has {path.stat().st_size} bytes")
        content = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: is not readable JSON ({error}); repair or remove it") from None
    return content if isinstance(content, dict) else {}
