import subprocess
import sys
from dataclasses import dataclass, field

import pytest
import torch

from finetune.errors import UsageError
from finetune.models.backbone import Features
from finetune.models.heads.base import Head, HeadOutput, Hooks
from finetune.models.heads.linear import LinearHead
from finetune.models.heads.registry import HEADS, build_head, head_class, head_options, resolved
from finetune.models.names import OWN_HEADS, head_names


@dataclass
class Dims:
    name: str = "tiny"
    embedding_dim: int = 6
    taps: tuple[int | str, ...] = ()
    map_dims: dict[int | str, int] = field(default_factory=dict)


def test_a_linear_head_is_one_matrix_and_starts_near_uniform():
    torch.manual_seed(0)
    head = build_head("linear", Dims(), 3).eval()
    embedding = torch.randn(4, 6)
    output = head(Features(embedding))
    torch.testing.assert_close(output.logits, embedding @ head.classifier.weight.T)
    assert output.logits.abs().max() < 0.2
    assert (output.branches, output.terms, output.maps) == ({}, {}, {})
    assert torch.equal(head.infer(Features(embedding)), output.logits)


def test_dropout_acts_in_training_only():
    head = LinearHead(1000, 2, dropout=0.5)
    features = Features(torch.ones(2, 1000))
    head.train()
    assert not torch.equal(head(features).logits[0], head(features).logits[1])
    head.eval()
    assert torch.equal(head(features).logits[0], head(features).logits[1])


def test_an_unknown_name_is_refused_with_the_names_there_are():
    with pytest.raises(UsageError, match=f"no head is called 'liner'; there is {', '.join(head_names())}"):
        build_head("liner", Dims(), 3)


@pytest.mark.parametrize(
    ("classes", "options", "message"),
    [
        (1, {}, "at least two classes, got 1"),
        (3, {"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
        (3, {"droput": 0.1}, "does not take the option droput; it takes dropout"),
        (3, {"dropout": "half"}, "option dropout must be float, got 'half'"),
        (3, {"dropout": True}, "option dropout must be float, got True"),
    ],
)
def test_what_cannot_be_right_is_refused(classes, options, message):
    with pytest.raises(UsageError, match=message):
        build_head("linear", Dims(), classes, **options)


def test_a_head_by_default_infers_its_main_logits_and_asks_for_nothing():
    class Doubling(Head):
        def forward(self, features, target=None):
            return HeadOutput(2 * features.embedding)

    head = Doubling()
    assert head.infer(Features(torch.ones(1, 2))).tolist() == [[2.0, 2.0]]
    assert head.hooks() == Hooks(prepare=None, batch_transform=None, views=1)
    assert head.explain(Features(torch.ones(1, 2))) == {}
    assert (head.default_taps, head.uses_embedding) == ((), True)


def test_heads_of_installed_packages_are_named_without_being_imported_and_loaded_when_asked_for():
    code = (
        "import sys; from finetune.models.heads.registry import head_class, head_names; "
        "names = head_names(); "
        "assert {'linear', 'dcl'} <= set(names), names; assert 'finegrained' not in sys.modules; "
        "head_class('dcl'); assert 'finegrained.heads.dcl' in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_options_of_a_head_are_those_of_its_build_method():
    assert head_options("linear") == {"dropout": 0.0}
    assert head_class("linear") is LinearHead


def test_resolved_options_are_all_of_them_with_those_given_in_place():
    assert resolved("linear", {}) == {"dropout": 0.0}
    found = resolved("dcl", {"regions": 4})
    assert found == {**head_options("dcl"), "regions": 4}
    assert found["regions"] != head_options("dcl")["regions"]


OPTIMIZATION = ("optim", "recipe", "precision")


def test_only_the_backbone_imports_timm():
    modules = ["models.heads.registry", "models.classifier", "models.weights", "images.mixing"]
    modules += ["training.objective", *(f"training.optimization.{name}" for name in OPTIMIZATION)]
    code = "import sys\n" + "".join(f"import finetune.{name}\n" for name in modules)
    result = subprocess.run([sys.executable, "-c", code + "assert 'timm' not in sys.modules"], check=False)
    assert result.returncode == 0


def test_the_names_that_are_known_without_torch_are_those_of_the_table():
    assert set(OWN_HEADS) == set(HEADS)
