"""A training loop in the style of timm's train.py, with a loss of `core_losses` as its criterion.

    python examples/timm_loop.py
    python examples/timm_loop.py --mixup 0.2 --smoothing 0.1 --amp
    python examples/timm_loop.py --data-dir FOLDER --model resnet18 --device cuda --amp --epochs 30

The first trains a tiny network on scikit-learn's digits and prints its accuracy on images held out from
training, in a few seconds on one CPU thread. FOLDER holds train/CLASS/ and val/CLASS/. Weights are random,
nothing is downloaded; your own weights enter by `create_model(..., checkpoint_path=...)`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from timm.data import Mixup, create_transform, resolve_model_data_config
from timm.models import create_model
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import random_seed
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision.datasets import ImageFolder

from core_losses import LOSSES, build_loss


def read_digits(seed: int) -> tuple[Dataset, Dataset]:
    """Return training and test sets of (image (3, 16, 16) in [-1, 1], class index)."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).div(8).sub(1).unsqueeze(1).repeat(1, 3, 1, 1)
    dataset = TensorDataset(F.interpolate(images, scale_factor=2), torch.tensor(digits.target))
    train, test = train_test_split(
        range(len(images)), test_size=450, stratify=digits.target, random_state=seed
    )
    return TensorDataset(*dataset[train]), TensorDataset(*dataset[test])


def read_folder(root: Path, model: str) -> tuple[Dataset, Dataset, int]:
    """Return training and test images of `root`, sized as the model wants them, and the number of classes."""
    # Torchvision's reader, because timm's takes the next image for one that it cannot decode.
    train_set, test_set = ImageFolder(root / "train"), ImageFolder(root / "val")
    if train_set.classes != test_set.classes:  # each split is numbered on its own
        raise SystemExit(f"{root}: train/ and val/ must hold the same class folders")
    config = resolve_model_data_config(create_model(model))  # the input size and normalisation of this model
    train_set.transform = create_transform(**config, is_training=True)
    test_set.transform = create_transform(**config)
    return train_set, test_set, len(train_set.classes)


def main(arguments: Sequence[str] | None = None) -> float:
    """Train, print the test accuracy and return it."""
    args = parse(arguments)
    random_seed(args.seed)
    if args.data_dir:
        train_set, test_set, classes = read_folder(args.data_dir, args.model)
    else:
        (train_set, test_set), classes = read_digits(args.seed), 10
    # An even batch size and drop_last, because Mixup pairs the images of a batch.
    loader = DataLoader(train_set, args.batch_size, shuffle=True, drop_last=True, num_workers=args.workers)
    if len(loader) == 0:
        raise SystemExit(f"{len(train_set)} training images do not fill one batch: lower --batch-size")
    test_loader = DataLoader(test_set, args.batch_size, num_workers=args.workers)

    model = create_model(args.model, pretrained=False, num_classes=classes).to(args.device)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=args.lr, weight_decay=0.05)
    scheduler, epochs = create_scheduler_v2(
        optimizer, sched="cosine", num_epochs=args.epochs, warmup_epochs=1, warmup_lr=args.lr / 10
    )
    # train.py picks another criterion for plain, smoothed and mixed targets. A loss of core_losses takes all
    # three: class indices (B,), `label_smoothing`, and soft targets (B, K). Mixup smooths the targets that it
    # makes, so the loss must not smooth them again.
    mixup = Mixup(args.mixup, label_smoothing=args.smoothing, num_classes=classes) if args.mixup else None
    criterion = build_loss(args.loss, label_smoothing=0.0 if mixup else args.smoothing)

    for epoch in range(epochs):
        scheduler.step(epoch)
        train_one_epoch(model, loader, criterion, optimizer, mixup, args)
    correct = validate(model, test_loader, args)
    print(f"{args.loss}: {correct:.1%} of {len(test_set)} test images correct, seed {args.seed}")
    return correct


def train_one_epoch(
    model: nn.Module,
    loader: DataLoader,
    criterion: nn.Module,
    optimizer: torch.optim.Optimizer,
    mixup: Mixup | None,
    args: argparse.Namespace,
) -> None:
    """Go once over the training images."""
    model.train()
    for images, target in loader:
        images, target = images.to(args.device), target.to(args.device)
        if mixup:
            images, target = mixup(images, target)  # target is now soft: (B, K), rows sum to 1
        # The loss may stand inside autocast: it takes half-precision logits, and computes in float32 all the
        # same. bfloat16 needs no loss scaling; for float16 add timm.utils.NativeScaler, as train.py does.
        with torch.autocast(args.device, dtype=torch.bfloat16, enabled=args.amp):
            loss = criterion(model(images), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.no_grad()
def validate(model: nn.Module, loader: DataLoader, args: argparse.Namespace) -> float:
    """Return the fraction of images whose largest logit is their class's."""
    model.eval()
    correct = 0
    for images, target in loader:
        with torch.autocast(args.device, dtype=torch.bfloat16, enabled=args.amp):
            logits = model(images.to(args.device))
        correct += int((logits.argmax(dim=1).cpu() == target).sum())
    return correct / len(loader.dataset)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options, named as train.py names them."""
    parser = argparse.ArgumentParser(
        description="Train a timm model with a loss of core_losses.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--loss", choices=LOSSES, default="crl", help="the training loss")
    parser.add_argument("--model", default="test_resnet", help="any name of timm.list_models()")
    parser.add_argument(
        "--data-dir", type=Path, help="folder with train/CLASS/ and val/CLASS/ instead of the digits"
    )
    parser.add_argument("--batch-size", type=int, default=64, help="images per step, even for --mixup")
    parser.add_argument("--epochs", type=int, default=5, help="passes over the training images")
    parser.add_argument("--lr", type=float, default=2e-3, help="peak learning rate of AdamW")
    parser.add_argument("--mixup", type=float, default=0.0, help="alpha of Mixup; 0 turns it off")
    parser.add_argument("--smoothing", type=float, default=0.0, help="label smoothing")
    parser.add_argument("--amp", action="store_true", help="mixed precision in bfloat16")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--workers", type=int, default=0, help="processes that load images")
    parser.add_argument("--seed", type=int, default=0, help="of split, weights and batch order")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
