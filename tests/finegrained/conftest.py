"""Fixtures of the fine-grained tests: those of the engine's runs serve here too."""

from tests.finetune.conftest import one_thread, pictures

__all__ = ["one_thread", "pictures"]
