"""The public door to exported models: `OnnxClassifier` runs one without torch."""

from apps.runtime.session import OnnxClassifier

__all__ = ["OnnxClassifier"]
