"""Overrides that make one epoch of a bundle cheap; a bundle that is cheap by default needs no line here."""

from typing import Any

PHANTOM_SIZE = {
    "retinal_vessel_fundus": (224, 256),
    "optic_disc_fundus": (224, 256),
    "lung_lobe_ct": (32, 48, 40),
    "lung_cxr": (150, 181),
    "liver_ct": (12, 64, 80),
    "abdomen_mri": (12, 64, 80),
}

TRAINING: dict[str, dict[str, Any]] = {
    "retinal_vessel_fundus_cenet": {"image_size": [192, 224], "patch_size": [192, 192], "batch_size": 2},
    "optic_disc_fundus_cenet": {"image_size": [192, 192], "crop_size": [200, 200], "batch_size": 2},
    "lung_lobe_ct_ctsunet": {
        "in_plane_size": 48,
        "stage1_features": [4] * 14,
        "stage2_features": [4] * 14,
        "embedding_channels": 4,
        "patch_size": 92,
        "val_interval": 1,
    },
    "lung_cxr_defunet": {"image_size": [64, 80], "features": [4, 4, 8, 8]},
    "lung_cxr_rescrnet": {"image_size": [40, 52], "filters": 4, "num_blocks": 1, "batch_size": 2},
    "liver_ct_anunet": {
        "features": [4, 8, 8, 16, 16],
        "image_size": [48, 64],
        "batch_size": 2,
        "slices_per_volume": 2,
        "val_interval": 1,
    },
    "abdomen_mri_anunet": {
        "features": [4, 8, 8, 16, 16],
        "image_size": [48, 64],
        "batch_size": 2,
        "slices_per_volume": 2,
        "val_interval": 1,
    },
}
