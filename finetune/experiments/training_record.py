"""What a finished run tells of its training, whatever it was trained on."""

from __future__ import annotations

from typing import Any

import torch

from finetune.cli.command import command_line
from finetune.runs.folder import versions
from finetune.training.config import FitConfig, to_dict
from finetune.training.learner import Learner, loss_settings


def training_facts(config: FitConfig, learner: Learner) -> dict[str, Any]:
    """Return a run's command, model, loss, preprocessing, settings, device and versions as plain values."""
    return {
        "command": command_line(),
        "loss": loss_settings(config.loss),
        "backbone": config.model.backbone,
        "head": config.head.name,
        "pretraining": learner.provenance,
        "seed": config.train.seed,
        "device": {
            "asked": config.device,
            "used": str(learner.precision.device),
            "name": learner.precision.device_name,
        },
        "precision": learner.precision.describe(),
        "preprocess": learner.spec.to_dict(),
        "image_size": learner.spec.image_size,
        "epochs": config.train.epochs,
        "batch_size": config.train.batch_size,
        "processes": learner.world.size,
        "threads": torch.get_num_threads(),
        "train": to_dict(config.train),
        "versions": versions(),
    }
