"""The module in which MONAI Label looks for a subclass of its ``MONAILabelApp`` if this folder is given as an app."""

from medseg_monai.apps.label.lib.app import BundleApp

__all__ = ["BundleApp"]
