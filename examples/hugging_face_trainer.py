"""A Hugging Face `Trainer` whose `compute_loss` is a loss of `core_losses`.

    pip install transformers accelerate     # not among the toolkit's own dependencies
    python examples/hugging_face_trainer.py
    python examples/hugging_face_trainer.py --loss focal --accumulation 4

Trains a tiny vision transformer on scikit-learn's digits and prints its accuracy on images held out from
training, in a few seconds on one CPU thread. Weights are random, nothing is downloaded. Tested with
transformers 5.24 and accelerate 1.15.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from typing import Any

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset
from transformers import EvalPrediction, Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

from core_losses import LOSSES, build_loss


class LossTrainer(Trainer):
    """A Trainer with a loss of your choice. Start one process per device, as `torchrun` does.

    Args:
        criterion: a loss with reduction "sum" and no class weights, called as `criterion(logits, labels)`.
        args, kwargs: Trainer's own.
    """

    def __init__(self, *args: Any, criterion: nn.Module, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.criterion = criterion
        # Asks for `num_items_in_batch`, and tells the Trainer not to divide by the accumulation steps again.
        self.model_accepts_loss_kwargs = True

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """Return the mean loss per label, and the model's outputs where they are asked for."""
        # The model gets no labels: it would compute a cross-entropy that nobody reads.
        outputs = model(**{name: value for name, value in inputs.items() if name != "labels"})
        labels = inputs["labels"]
        loss = self.criterion(outputs.logits, labels)
        if num_items_in_batch is None:
            loss = loss / (labels != self.criterion.ignore_index).sum()
        else:
            # The count covers every batch that this optimizer step accumulates. Sums divided by it add up to
            # the gradient of one large batch; means of batches would not where the last batch is smaller.
            loss = loss / num_items_in_batch
            if (
                self.args.average_tokens_across_devices
            ):  # a count over all processes, whose gradients are averaged
                loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss


class Digits(Dataset):
    """Scikit-learn's digits under the names that image models of transformers expect."""

    def __init__(self) -> None:
        digits = load_digits()
        self.images = torch.tensor(digits.images, dtype=torch.float32).div(8).sub(1).unsqueeze(1)
        self.labels = digits.target

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"pixel_values": self.images[index], "labels": int(self.labels[index])}


def build_model() -> ViTForImageClassification:
    """Return a vision transformer of two layers for images (1, 8, 8), with random weights."""
    return ViTForImageClassification(
        ViTConfig(
            image_size=8,
            patch_size=2,
            num_channels=1,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_labels=10,
            initializer_range=0.1,  # the default, 0.02, is for wider networks and learns slowly here
        )
    )


def accuracy(result: EvalPrediction) -> dict[str, float]:
    """Return the fraction of images whose largest logit is their class's."""
    return {"accuracy": float((result.predictions.argmax(axis=1) == result.label_ids).mean())}


def main(arguments: Sequence[str] | None = None) -> float:
    """Train, print the test accuracy and return it."""
    args = parse(arguments)
    torch.manual_seed(args.seed)
    digits = Digits()
    train, test = train_test_split(
        range(len(digits)), test_size=450, stratify=digits.labels, random_state=args.seed
    )
    with tempfile.TemporaryDirectory() as folder:  # the Trainer wants one, though nothing is saved
        trainer = LossTrainer(
            model=build_model(),
            criterion=build_loss(args.loss, reduction="sum"),
            args=TrainingArguments(
                output_dir=folder,
                num_train_epochs=args.epochs,
                learning_rate=args.lr,
                per_device_train_batch_size=32,
                gradient_accumulation_steps=args.accumulation,
                seed=args.seed,
                use_cpu=not args.gpu,
                save_strategy="no",
                report_to="none",
            ),
            train_dataset=Subset(digits, train),
            eval_dataset=Subset(digits, test),
            compute_metrics=accuracy,
        )
        trainer.train()
        correct = trainer.evaluate()["eval_accuracy"]
    print(f"{args.loss}: {correct:.1%} of {len(test)} test images correct, seed {args.seed}")
    return correct


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        description="Train with transformers' Trainer and a loss of core_losses.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--loss", choices=LOSSES, default="crl", help="the training loss")
    parser.add_argument("--epochs", type=float, default=5, help="passes over the training images")
    parser.add_argument(
        "--lr", type=float, default=2e-3, help="first learning rate of AdamW, falling linearly"
    )
    parser.add_argument("--accumulation", type=int, default=1, help="batches of 32 per optimizer step")
    parser.add_argument("--gpu", action="store_true", help="use an accelerator if there is one")
    parser.add_argument("--seed", type=int, default=0, help="of split, weights and batch order")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
