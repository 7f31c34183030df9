"""A plain PyTorch training loop with a loss of `core_losses` where `nn.CrossEntropyLoss()` would stand.

    python examples/plain_pytorch.py
    python examples/plain_pytorch.py --loss focal --epochs 40 --seed 1

Trains a small network on scikit-learn's handwritten digits and prints its accuracy on images held out from
training, in a few seconds on one CPU thread. The digits come with scikit-learn: nothing is downloaded.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from core_losses import LOSSES, build_loss


def read_digits(seed: int) -> tuple[TensorDataset, TensorDataset]:
    """Return training and test sets of (image (64,) in [0, 1], class index)."""
    images, target = load_digits(return_X_y=True)
    dataset = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(target))
    train, test = train_test_split(range(len(target)), test_size=450, stratify=target, random_state=seed)
    return TensorDataset(*dataset[train]), TensorDataset(*dataset[test])


def train(model: nn.Module, criterion: nn.Module, loader: DataLoader, epochs: int, lr: float) -> None:
    """Train the model in place; nothing here knows which loss it is."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    model.train()
    for _ in range(epochs):
        for images, target in loader:
            optimizer.zero_grad()
            loss = criterion(model(images), target)  # raw logits (B, K) and int64 class indices (B,)
            loss.backward()
            optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module, dataset: TensorDataset) -> float:
    """Return the fraction of images whose largest logit is their class's."""
    images, target = dataset.tensors
    return (model.eval()(images).argmax(dim=1) == target).float().mean().item()


def main(arguments: Sequence[str] | None = None) -> float:
    """Train, print the test accuracy and return it."""
    parser = argparse.ArgumentParser(
        description="Train on digits with a loss of core_losses.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--loss", choices=LOSSES, default="crl", help="the training loss")
    parser.add_argument("--epochs", type=int, default=20, help="passes over the training images")
    parser.add_argument("--lr", type=float, default=2e-3, help="learning rate of AdamW")
    parser.add_argument("--seed", type=int, default=0, help="of split, weights and batch order")
    args = parser.parse_args(arguments)

    torch.manual_seed(args.seed)
    train_set, test_set = read_digits(args.seed)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    # The one line that changes. Options go here, too: build_loss("crl", alpha=1.0, label_smoothing=0.1), or
    # CompetingRatioLoss(alpha=1.0): `weight`, `ignore_index` and `reduction` mean what they mean in PyTorch.
    criterion = build_loss(args.loss)

    train(model, criterion, DataLoader(train_set, batch_size=64, shuffle=True), args.epochs, args.lr)

    # Losses differ in floor and scale, so their values say nothing about each other: compare accuracies.
    correct = accuracy(model, test_set)
    print(f"{args.loss}: {correct:.1%} of {len(test_set)} test images correct, seed {args.seed}")
    return correct


if __name__ == "__main__":
    main()
