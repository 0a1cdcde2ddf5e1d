"""What makes one epoch of a bundle cheap. A bundle whose network is cheap in itself needs no line here."""

from __future__ import annotations

from typing import Any

from medseg_monai.bundle import flat_keys, merged_config

from .formats import reads_volumes

__all__ = ["phantom_size", "tiny_training"]

#: keys that many bundles have; no size is square, and all suit a network that halves its images five times
TINY: dict[str, Any] = {
    "image_size": [64, 96],
    "batch_size": 2,
    "slices_per_volume": 2,
    "val_interval": 1,
    "views_per_image": 1,
    "amp": False,  # two trainings are the same only if the clock does not choose the precision
}

OWN: dict[str, dict[str, Any]] = {
    "retinal_vessel_fundus_cenet": {"image_size": [224, 256], "patch_size": [192, 224]},
    "optic_disc_fundus_cenet": {"image_size": [192, 224], "crop_size": [200, 200]},
    "cell_contour_em_cenet": {"image_size": [224, 256], "patch_size": [192, 224]},
    "retinal_layer_oct_cenet": {"image_size": [192, 224]},
    "lung_lobe_ct_ctsunet": {
        "in_plane_size": 48,
        "stage1_features": [4] * 14,
        "stage2_features": [4] * 14,
        "embedding_channels": 4,
        "patch_size": 92,
        "batch_size": 1,
    },
    "lung_ct2d_cenet": {"image_size": [192, 224]},
    "lung_cxr_defunet": {"features": [4, 4, 8, 8]},
    "lung_cxr_rescrnet": {"image_size": [40, 52], "filters": 4, "num_blocks": 1},
    "liver_ct_anunet": {"features": [4, 8, 8, 16, 16], "image_size": [48, 64]},
    "abdomen_mri_anunet": {"features": [4, 8, 8, 16, 16], "image_size": [48, 64]},
}

#: by task; others have phantoms of the size of :func:`phantom_size`
PHANTOM_SIZE = {
    "retinal_vessel_fundus": (224, 256),
    "optic_disc_fundus": (224, 256),
    "cell_contour_em": (200, 240),
    "lung_lobe_ct": (32, 48, 40),
    "lung_ct2d": (48, 64),
}


def tiny_training(bundle: str) -> dict[str, Any]:
    """Keys of a bundle's training and values that make it cheap.

    Args:
        bundle: name of the bundle.
    """
    keys = flat_keys(merged_config(bundle, ["train"]))
    return {**{key: value for key, value in TINY.items() if key in keys}, **OWN.get(bundle, {})}


def phantom_size(bundle: str) -> tuple[int, ...]:
    """Size of small phantoms of a bundle's task, rows or slices first.

    Args:
        bundle: name of the bundle.
    """
    return PHANTOM_SIZE.get(bundle.rpartition("_")[0], (12, 64, 80) if reads_volumes(bundle) else (150, 181))
