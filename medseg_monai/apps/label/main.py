"""Where MONAI Label looks for a subclass of its ``MONAILabelApp`` when this folder is given as an app."""

from medseg_monai.apps.label.lib.app import BundleApp

__all__ = ["BundleApp"]
