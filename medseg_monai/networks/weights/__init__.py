"""Weights: model files with their settings, and the import of the weights that authors published."""

from .model_file import ModelFile, write_model

__all__ = ["ModelFile", "write_model"]
