"""Weights: model files and their settings, and the import of what authors published."""

from .model_file import ModelFile, write_model

__all__ = ["ModelFile", "write_model"]
