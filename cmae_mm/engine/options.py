"""``--cfg-options key=value``: parse, check that the field exists, apply.

mmengine adds any unknown key without a word, so a typing mistake trains the unchanged recipe.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Sequence
from typing import Any

from mmengine.config import Config, ConfigDict, DictAction
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch.utils.data import DataLoader

from cmae_mm.errors import UserError

_RUNNER_READS = ("compile", "find_unused_parameters", "model_wrapper_cfg")


def parse_options(pairs: Sequence[str]) -> dict[str, Any]:
    """Parse ``key=value`` words; values may be numbers, booleans, None, strings or lists.

    Args:
        pairs: Words as given on the command line.

    Returns:
        Dotted keys to values.

    Raises:
        UserError: If a word has no ``=`` or unbalanced brackets.
    """
    options = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UserError(
                f"--cfg-options: '{pair}' is not of the form key=value, for example optim_wrapper.lr=1e-4"
            )
        try:
            if value[:1] in ("(", "[") and any(value.count(a) != value.count(b) for a, b in ("()", "[]")):
                raise AssertionError("unbalanced brackets")
            options[key] = DictAction._parse_iterable(value)
        except AssertionError as error:
            raise UserError(f"--cfg-options: '{pair}' cannot be read ({error})") from None
    return options


def apply_options(cfg: Config, options: dict[str, Any]) -> None:
    """Set fields of a config; each key must name a field.

    A field exists if the config spells it, if the class named by ``type`` beside it takes it, or,
    at the top level, if the runner takes it.

    Args:
        cfg: Config, changed in place.
        options: Dotted keys to values.

    Raises:
        UserError: If a key names no field.
    """
    for key in options:
        _check_field(cfg, key)
    cfg.merge_from_dict(options, allow_list_keys=True)


# Plain dicts that a model reads by key: no class tells which keys there are (such as crop_size of slide inference).
_FREE_FORM = {("model", "test_cfg"), ("model", "train_cfg")}


def _check_field(cfg: Config, dotted: str) -> None:
    node: Any = cfg
    parts = dotted.split(".")
    for depth, part in enumerate(parts):
        if tuple(parts[:depth]) in _FREE_FORM:
            return
        known = list(dict.fromkeys([*_known_fields(node), *_implied_fields(parts[:depth], node)]))
        if part not in known:
            where = ".".join(parts[:depth]) or "the top level of the config"
            close = difflib.get_close_matches(part, known, n=1)
            some = ", ".join(sorted(known)[:12]) or "nothing, it is a value"
            advice = f"did you mean '{close[0]}'?" if close else f"known there: {some}"
            raise UserError(
                f"--cfg-options: '{dotted}' names no field: there is no '{part}' in {where}; {advice}"
            )
        node = _child(node, part)
        if node is None:  # a field that only the class knows: what is below it cannot be checked
            return


def _child(node: Any, part: str) -> Any:
    if isinstance(node, (list, tuple)):
        return node[int(part)]
    return node.get(part) if isinstance(node, (dict, Config)) else None


def _known_fields(node: Any) -> list[str]:
    if isinstance(node, (list, tuple)):
        return [str(i) for i in range(len(node))]
    if isinstance(node, Config):
        # A pure Python config also holds the names that it imports.
        own = [k for k, v in node.items() if not (inspect.isclass(v) or callable(v) or inspect.ismodule(v))]
        return [*own, *list(inspect.signature(Runner.__init__).parameters)[1:], *_RUNNER_READS]
    if not isinstance(node, dict):
        return []
    return [*node.keys(), *_constructor_fields(node)]


def _implied_fields(parts: Sequence[str], node: Any) -> list[str]:
    """Fields of the parts whose class the config need not name, because the runner knows it."""
    place = parts[0] if len(parts) == 1 else ""
    if place.endswith("_dataloader"):
        return list(inspect.signature(DataLoader.__init__).parameters)[1:]
    if place == "optim_wrapper":
        return ["constructor", "paramwise_cfg"]
    if place == "train_cfg" and "type" not in node:
        loop: Any = EpochBasedTrainLoop if node.get("by_epoch") else IterBasedTrainLoop
        return list(inspect.signature(loop.__init__).parameters)[3:]  # without self, runner, dataloader
    return []


def _constructor_fields(node: dict[str, Any]) -> list[str]:
    kind = node["type"] if isinstance(node, ConfigDict) and "type" in node else None
    if not inspect.isclass(kind):
        return []
    names: list[str] = []
    for base in kind.__mro__:  # **kwargs are passed on to the base class, as mm* does
        if base is object or "__init__" not in vars(base):
            continue
        parameters = inspect.signature(vars(base)["__init__"]).parameters
        names += [
            n
            for n, p in parameters.items()
            if n != "self" and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        ]
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            break
    return names
