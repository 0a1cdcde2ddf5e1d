"""Weights: model files and their settings, and the import of what authors published."""

from .model_file import ModelFile, copy_model, settings_file, write_model

__all__ = ["ModelFile", "copy_model", "settings_file", "write_model"]
