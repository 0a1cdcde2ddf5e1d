"""Weights: model files with their settings, and the import of the weights that authors published."""

from .model_file import ModelFile, copy_model, settings_file, write_model

__all__ = ["ModelFile", "copy_model", "settings_file", "write_model"]
