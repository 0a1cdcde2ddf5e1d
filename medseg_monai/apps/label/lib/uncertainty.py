"""Active learning: the next image is the one about which a model is least certain."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from itertools import chain, combinations
from typing import Any

import torch
from monai.data import list_data_collate
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.strategy import Strategy

from medseg_monai.bundle import Predictor
from medseg_monai.errors import explain
from medseg_monai.inferers import FlipTTAInferer, SliceBySliceInferer

from .infer import BundleInferTask
from .served import ServedBundle

__all__ = ["UncertaintyStrategy", "flip_entropy"]

_LOGGER = logging.getLogger(__name__)

_SIDES = ("left", "right")


class UncertaintyStrategy(Strategy):
    """The unlabelled image with the highest entropy over flipped views; see :func:`flip_entropy`.

    The entropy of an image is stored in the list of images, together with the model that gave it. A request measures
    new images for a limited time and chooses the highest entropy known so far, so in a large folder the choice improves
    from request to request.

    Args:
        task: inference task of the bundle.
        seconds: how long one request may measure; it always measures at least one new image.
    """

    def __init__(self, task: BundleInferTask, seconds: float = 20.0) -> None:
        super().__init__(f"The image about which {task.bundle.name} is least certain")
        self.task = task
        self.seconds = seconds
        self.key = f"uncertainty_{task.bundle.name}"

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """Choose an image.

        Args:
            request: the request; only MONAI Label's own ``label_tag`` and ``labels`` are used.
            datastore: the images.

        Returns:
            ``id`` and ``uncertainty`` (mean entropy, 0 to 1); ``None`` if every image is labelled or none can be read.
        """
        images = sorted(datastore.get_unlabeled_images(request.get("label_tag"), request.get("labels")))
        predictor = self.task.predictor({})
        known = {image: datastore.get_image_info(image).get(self.key) or {} for image in images}
        new = [image for image in images if known[image].get("model_sha256") != predictor.model_sha256]
        deadline = time.monotonic() + self.seconds
        for image in new:
            entropy = self._measure(predictor, image, datastore)
            known[image] = {"entropy": entropy, "model_sha256": predictor.model_sha256}
            datastore.update_image_info(image, {self.key: known[image]})
            if time.monotonic() > deadline:
                break
        scores = {
            image: float(entry["entropy"])
            for image, entry in known.items()
            if entry.get("model_sha256") == predictor.model_sha256 and entry["entropy"] is not None
        }
        if not scores:
            return None
        chosen = max(scores, key=lambda image: scores[image])
        return {"id": chosen, "uncertainty": scores[chosen]}

    def _measure(self, predictor: Predictor, image: str, datastore: Datastore) -> float | None:
        """Entropy of an image; ``None`` if the bundle cannot read the image, such as a volume for a 2D bundle."""
        try:
            with self.task.lock:
                return flip_entropy(predictor, self.task.bundle, datastore.get_image_uri(image))
        except Exception as error:  # the other images must be measured, whatever happened to this one
            _LOGGER.warning("%s: not measured for %s: %s", image, self.task.bundle.name, explain(error))
            return None


def flip_entropy(predictor: Predictor, bundle: ServedBundle, image: str) -> float:
    """Entropy of the mean prediction over flipped views of an image, averaged over its pixels or voxels.

    The views are the flips along every axis of the network's input and along several axes at once. Images for a bundle
    whose labels have sides (left upper lobe) are not flipped from left to right, since the bundle would correctly
    predict the other side. A bundle whose own inference uses flipped views already has the mean.

    Args:
        predictor: the loaded bundle.
        bundle: description of the bundle.
        image: path of the image.

    Returns:
        0 if every view gives the same certain prediction, 1 if the predictions are completely uncertain.
    """
    images = list_data_collate([predictor.preprocessing({"image": image})])["image"]
    inferer = predictor.inferer
    inferer = inferer.inferer if isinstance(inferer, SliceBySliceInferer) else inferer
    if isinstance(inferer, FlipTTAInferer) and inferer.activation is not None:
        return _mean_entropy(predictor.infer(images, predictor.network), softmax=bundle.softmax)
    views = list(_views(_axes(images, bundle)))
    mean = torch.zeros(())
    for axes in views:
        output = predictor.infer(torch.flip(images, axes) if axes else images, predictor.network)
        probability = torch.softmax(output, dim=1) if bundle.softmax else torch.sigmoid(output)
        mean = mean + torch.as_tensor(torch.flip(probability, axes) if axes else probability).cpu() / len(views)
    return _mean_entropy(mean, softmax=bundle.softmax)


def _axes(images: torch.Tensor, bundle: ServedBundle) -> list[int]:
    axes = list(range(2, images.ndim))
    if not any(side in label.lower().split() for label in bundle.labels for side in _SIDES):
        return axes
    if bundle.dimension == 2:
        return axes[:-1]
    # the axis of the grid that runs closest to the patient's left and right
    affine = images.affine[0] if images.affine.ndim == 3 else images.affine  # type: ignore[attr-defined]
    sideways = int(torch.argmax(affine[0, :3].abs() / affine[:3, :3].norm(dim=0)))
    return [axis for axis in axes if axis != sideways + 2]


def _views(axes: list[int]) -> Iterable[tuple[int, ...]]:
    return chain.from_iterable(combinations(axes, count) for count in range(len(axes) + 1))


def _mean_entropy(probability: torch.Tensor, *, softmax: bool) -> float:
    """Mean entropy as a share of the highest possible entropy."""
    values = torch.as_tensor(probability).double()
    if softmax:
        entropy = torch.special.entr(values).sum(dim=1) / torch.log(torch.tensor(float(values.shape[1])))
    else:
        entropy = (torch.special.entr(values) + torch.special.entr(1 - values)) / torch.log(torch.tensor(2.0))
    return float(entropy.mean())
