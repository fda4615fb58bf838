"""What an import did, in words."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cmae_mm.checkpoints.extraction import Extracted, claimed
from cmae_mm.checkpoints.header import BackboneHeader
from cmae_mm.checkpoints.sidecar import Sidecar
from cmae_mm.checkpoints.unwrap import Unwrapped


@dataclass
class ImportReport:
    """What an import did.

    Attributes:
        path: The checkpoint.
        layout: Layout of the family that fitted.
        header: Header of the encoder; it tells family, branch, what was left out and what was changed.
        reason: Why the family was recognised.
        parameters: Number of values in its tensors.
        notes: What was assumed, or is worth knowing.
    """

    path: str
    layout: str
    header: BackboneHeader
    reason: str = ""
    parameters: int = 0
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        header = self.header
        branch = f", {header.branch}" if header.branch else ""
        lines = [
            f"{self.path}: {header.family or header.method} ({self.layout}{branch}), {architecture_words(header)}, "
            f"{self.parameters / 1e6:.1f} M parameters"
        ]
        if self.reason:
            lines.append(f"recognised: {self.reason}")
        if header.dropped:
            lines.append(f"left out: {', '.join(header.dropped)}")
        lines += [f"changed: {said}" for said in header.transforms]
        lines.append(f"fed with: {input_words(header)}")
        if header.licence:
            lines.append(f"licence: {header.licence}")
        return "\n".join(lines + [f"note: {said}" for said in self.notes])


def architecture_words(header: BackboneHeader) -> str:
    """Returns: The sizes of an encoder in words."""
    size = f"patch {header.patch}, {header.image_size} px"
    if header.kind == "vit":
        return f"{header.depth} blocks of width {header.width} with {header.heads} heads, {size}"
    stages = ", ".join(
        f"{depth} of width {width}" + (f" with {heads} heads" if heads else " (convolutional)")
        for depth, width, heads in zip(
            header.stage_depths, header.stage_widths, header.stage_heads, strict=True
        )
    )
    windows = f", windows of {'/'.join(map(str, header.stage_windows))}" if header.stage_windows else ""
    return f"{header.kind} encoder, blocks by stage: {stages}{windows}; {size}"


def input_words(header: BackboneHeader) -> str:
    """Returns: What the encoder was fed with, in words."""
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (header.mean, header.std))
    return f"{header.channel_order.upper()} images, mean {mean}, standard deviation {std} (of 255)"


def notes_on(
    found: Extracted, unwrapped: Unwrapped, beside: Sidecar, channel_order: str | None, path: str | Path
) -> list[str]:
    """Say what was assumed, or is worth knowing.

    Args:
        found: The encoder as extracted.
        unwrapped: Where it was.
        beside: What JSON files beside the weights said.
        channel_order: What the user gave.
        path: The checkpoint.

    Returns:
        Clauses, one a note.
    """
    layout, notes = found.layout, []
    if layout.channel_note and channel_order is None:
        notes.append(
            f"channel order {layout.channel_order} assumed, {layout.channel_note}; --channel-order decides"
        )
    if found.architecture.kind == "swin":
        size = found.architecture.image_size
        notes.append(
            f"the image size is not in the file; taken is {size} px, where the last stage is one window"
        )
    if not claimed(found):
        notes.append(f"its position table is {found.table}, which is unusual for this family: check --source")
    if unwrapped.branches:
        notes.append(f"the file has {', '.join(unwrapped.branches)}; taken: {unwrapped.outer}")
    if beside.files:
        notes.append(f"read beside it: {', '.join(beside.files)}")
    if "visualize" in Path(path).name:
        notes.append("files called visualize were trained without normalised pixels and transfer worse")
    if halves := sorted({str(v.dtype).removeprefix("torch.") for v in found.state.values()} - {"float32"}):
        notes.append(f"converted from {', '.join(halves)} to float32")
    return notes
