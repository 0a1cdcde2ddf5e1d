"""Medical image segmentation with MONAI: five published networks, from data to deployed masks."""

__version__ = "0.1.0"
