"""Overlays of the same validation cases, drawn every few epochs."""

from __future__ import annotations

import os
from pathlib import Path

from ignite.engine import Engine, Events

from medseg_monai.data.names import item_name
from medseg_monai.visualize import coronal_slices, save_overlay

__all__ = ["OverlaySaver"]


class OverlaySaver:
    """Draw the outlines of prediction and label over the first validation images, to make progress visible.

    The evaluator's postprocessing must leave ``image`` ``[C, H, W]``, ``pred`` and ``label`` ``[1, H, W]`` of the same
    size in each decollated item. ``Invertd`` can restore the image along with the prediction, so that a crop is shown
    in its place. Of a volume ``[C, *spatial]`` the coronal slice with the largest section of the label is drawn.

    Args:
        output_dir: folder for files named ``<name>_epoch0010.png``, with the case's name in the data list (see
            :func:`medseg_monai.data.names.name_cases`).
        cases: number of cases that are drawn in each validation, always the first ones.
        interval: number of epochs from one drawing to the next.
        pages: images are stacks of sections ``[C, pages, H, W]``, of which the page with the most of the label is
            drawn.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import torch
        >>> from ignite.engine import Engine
        >>> from monai.data import MetaTensor
        >>> from medseg_monai.handlers import OverlaySaver
        >>> label = torch.zeros(1, 12, 16)
        >>> label[:, 3:8, 5:12] = 1
        >>> image = MetaTensor(torch.rand(1, 12, 16), meta={"filename_or_obj": "eye.png"})
        >>> evaluator = Engine(lambda engine, batch: batch)  # stands for MONAI's SupervisedEvaluator
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     OverlaySaver(folder, interval=2).attach(evaluator)
        ...     _ = evaluator.run([[{"image": image, "pred": label.flip(2), "label": label}]], max_epochs=3)
        ...     [path.name for path in Path(folder).iterdir()]
        ['eye_epoch0002.png']
    """

    def __init__(
        self, output_dir: str | os.PathLike[str], *, cases: int = 4, interval: int = 10, pages: bool = False
    ) -> None:
        self.output_dir = Path(output_dir)
        self.cases = cases
        self.interval = interval
        self.pages = pages
        self._drawn = 0

    def attach(self, engine: Engine) -> None:
        """Register the handler.

        Args:
            engine: evaluator with decollated output.
        """
        engine.add_event_handler(Events.EPOCH_STARTED, self.start_again)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def start_again(self) -> None:
        """Start to count the cases of a new validation."""
        self._drawn = 0

    def __call__(self, engine: Engine) -> None:
        """Draw the cases of this iteration if they are due."""
        epoch = engine.state.epoch
        if epoch % self.interval:
            return
        items = zip(engine.state.batch, engine.state.output, strict=True)
        for case, item in list(items)[: self.cases - self._drawn]:
            self._drawn += 1
            name = item_name({**case, **item})  # MONAI leaves the name that the data list gave in the batch
            volumes = [item[key] for key in ("image", "pred", "label")]
            if self.pages:
                page = int((volumes[2] > 0).sum(dim=(0, 2, 3)).argmax())
                volumes = [volume[:, page] for volume in volumes]
            is_flat = volumes[0].ndim == 3
            image, prediction, label = (
                [volume.cpu().numpy() for volume in volumes] if is_flat else coronal_slices(volumes, chosen_by=2)
            )
            save_overlay(
                self.output_dir / f"{name}_epoch{epoch:04d}.png", image, prediction=prediction[0], label=label[0]
            )
