"""Command lines and YAML files: what wins, and what a person is told about a mistake."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from finetune.cli.option_words import suggestion
from finetune.cli.options import load_config, parse_options
from finetune.errors import UsageError
from finetune.training.config import FitConfig, TrainConfig, to_dict


@dataclass(frozen=True)
class Wish:
    """A command of its own.

    Args:
        device: where.
        folds: which folds.
    """

    train: TrainConfig = field(default_factory=TrainConfig)
    device: str = "auto"
    folds: tuple[int, ...] = ()
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Crops:
    """A choice that may stay empty.

    Args:
        test_crops: which.
    """

    test_crops: Literal["center", "flip"] | None = None


@dataclass(frozen=True)
class Rates:
    """Several numbers.

    Args:
        rates: which.
    """

    rates: tuple[float, ...] = ()


def parse(*argv: str, config_type: type[Any] = FitConfig, **more: Any) -> Any:
    return parse_options(config_type, argv, prog="crl test", about="a test", **more)


def refusal(*argv: str, **more: Any) -> str:
    with pytest.raises(UsageError) as told:
        parse(*argv, **more)
    return str(told.value)


def write(folder: Path, text: str) -> str:
    file = folder / "my.yaml"
    file.write_text(text, encoding="utf-8")
    return str(file)


def test_nothing_given_is_the_default_of_the_dataclasses():
    config, flags, words = parse()
    assert config == FitConfig()
    assert (flags.json, flags.debug, words) == (False, False, {})


def test_the_line_wins_over_the_file_and_the_last_word_over_the_first(tmp_path: Path):
    file = write(tmp_path, "train:\n  lr: 0.5\n  epochs: 7\ndevice: cpu\n")
    config, flags, _ = parse("--config", file, "--train.lr=0.1", "--train.lr", "0.2", "--json")
    assert (config.train.lr, config.train.epochs, config.device, flags.json) == (0.2, 7, "cpu", True)
    assert load_config(FitConfig, Path(file)).train.lr == 0.5


def test_the_line_wins_over_the_file_wherever_it_stands_and_files_keep_their_order(tmp_path: Path):
    (tmp_path / "more").mkdir()
    one, two = (
        write(tmp_path, "train:\n  lr: 0.5\n  epochs: 7\n"),
        write(tmp_path / "more", "train: {epochs: 9}"),
    )
    for words in (["--train.lr", "0.1", "--config", one], ["--train.lr=0.1", f"--config={one}"]):
        config = parse(*words)[0]
        assert (config.train.lr, config.train.epochs) == (0.1, 7)
    assert parse("--config", one, "--train.lr", "0.1", "--config", two)[0].train.epochs == 9
    assert parse("--config", two, "--config", one)[0].train.epochs == 7


def test_lists_may_be_given_as_words_with_commas():
    for words in (["--folds", "0,2"], ["--folds=0,2"], ["--folds", "[0,2]"]):
        assert parse(*words, config_type=Wish)[0].folds == (0, 2)
    assert parse("--folds", "3", config_type=Wish)[0].folds == (3,)
    assert parse("--names", "cuda:0,cuda:1", config_type=Wish)[0].names == ("cuda:0", "cuda:1")
    assert parse("--names", "train.lr", config_type=Wish)[0].names == ("train.lr",)
    assert parse("--train.milestones", "80,100", config_type=Wish)[0].train.milestones == (80, 100)


def test_positional_words_come_back_by_name():
    _, _, words = parse("here", "--device", "cpu", positionals={"run": "a folder"}, config_type=Wish)
    assert words == {"run": "here"}
    _, _, words = parse("a", "b", positionals={"runs...": "folders"}, config_type=Wish)
    assert words == {"runs": "a\nb"}
    assert "run" in refusal(positionals={"run": "a folder"}, config_type=Wish)


def test_a_misspelt_option_is_named_with_the_nearest_one():
    assert refusal("--train.epoch", "3") == "unknown option --train.epoch (did you mean train.epochs?)"
    told = refusal("--trian.lr", "3", "--device", "cpu", "--devise=cpu")
    assert "--trian.lr (did you mean train.lr?)" in told
    assert "--devise (did you mean device?)" in told
    assert "--train.ep" in refusal("--train.ep", "3"), "an abbreviation is never guessed"


@pytest.mark.parametrize(
    ("text", "told"), [("1:30", "1:30 is 90 to YAML"), ("010", "010 is 8 to some programs")]
)
def test_a_number_that_yaml_reads_as_another_one_is_refused(tmp_path: Path, text: str, told: str):
    assert refusal("--train.epochs", text).startswith(f"--train.epochs: {told}")
    assert told in refusal("--config", write(tmp_path, f"train: {{epochs: {text}}}\n"))


def test_every_unknown_key_of_a_file_is_named_with_file_and_suggestion(tmp_path: Path):
    file = write(tmp_path, "train:\n  learning_rate: 1\n  epoch: 3\nlos: {name: cel}\nmodel: resnet34\n")
    told = refusal("--config", file)
    assert told.startswith(f"{file}:")
    assert "unknown key train.epoch (did you mean epochs?)" in told
    assert "unknown key train.learning_rate; known: accumulate, augment" in told
    assert "unknown key los (did you mean loss?)" in told
    assert "model must hold keys and values, got 'resnet34'" in told


def test_a_value_of_the_wrong_type_is_told_with_key_and_file(tmp_path: Path):
    file = write(tmp_path, "train:\n  lr: abc\n")
    assert refusal("--config", file) == f"--train.lr (in {file}) must be float, got abc"
    assert refusal("--train.lr", "abc") == "--train.lr must be float, got abc"
    assert refusal("--config", file, "--train.lr", "xyz").endswith("must be float, got abc")
    assert refusal("--model.image_size", "big").startswith("--model.image_size must be int | null, got big")


def test_a_choice_that_is_not_offered_is_told_with_those_that_are(tmp_path: Path):
    told = refusal("--train.schedule", "cosin")
    assert told == "--train.schedule must be one of cosine, step, constant, got cosin (did you mean cosine?)"
    file = write(tmp_path, "train: {optimizer: rmsprop}\n")
    assert (
        refusal("--config", file) == f"--train.optimizer (in {file}) must be one of sgd, adamw, got rmsprop"
    )


def test_a_choice_that_may_stay_empty_is_told_by_its_names():
    told = refusal("--test_crops", "centre", config_type=Crops)
    assert told == ("--test_crops must be one of center, flip, null, got centre (did you mean center?)")
    assert parse("--test_crops", "null", config_type=Crops)[0].test_crops is None


@pytest.mark.parametrize(
    ("text", "key", "allowed", "near"),
    [
        ("loss: {name: crll}", "loss.name", "cel, nllr, crl, focal, cce, dualce, tce", "did you mean 'crl'"),
        (
            "train: {augment: faec}",
            "train.augment",
            "none, flip, face, face_fast, standard, strong",
            "did you mean face",
        ),
        ("head: {name: linaer}", "head.name", "linear", "did you mean linear"),
    ],
)
def test_a_misspelt_name_in_a_file_is_told_with_key_file_allowed_values_and_suggestion(
    tmp_path: Path, text: str, key: str, allowed: str, near: str
):
    file = write(tmp_path, text)
    told = refusal("--config", file)
    assert all(part in told for part in (file, key, allowed, near))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"train: [", "is not valid YAML"),
        (b"\xff\xfe\x00", "UTF-16 text, not UTF-8"),
        (b"- 1\n- 2\n", "must hold keys and values, got list"),
        (b"# train: {lr: 1}\n", "must hold keys and values, got nothing"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, content: bytes, told: str):
    file = tmp_path / "my.yaml"
    file.write_bytes(content)
    message = refusal("--config", str(file))
    assert str(file) in message
    assert told in message


def test_a_file_that_is_not_there_is_named():
    assert "--config absent.yaml: there is no such file" in refusal("--config=absent.yaml")


def test_a_recipe_is_found_by_name_and_listed(tmp_path: Path):
    write(tmp_path, "train: {epochs: 4}\n")
    assert parse("--config", "my", recipes=tmp_path)[0].train.epochs == 4
    assert "recipes by name: my" in refusal("--config", "mi", recipes=tmp_path)
    assert "no such file" in refusal("--config", "../x/my", recipes=tmp_path / "y")


def test_keys_of_another_command_are_left_aside_in_a_file_alone(tmp_path: Path, capsys):
    aside = ("losses", "seeds")
    file = write(tmp_path, "train: {epochs: 4}\nlosses: [cel, crl]\nseeds: 5\n")
    assert parse("--config", str(file), aside=aside)[0].train.epochs == 4
    told = f"notice: {Path(file).name} also holds losses, seeds, which crl test does not take: left aside\n"
    assert capsys.readouterr().out == told
    assert "unknown key losses" in refusal("--config", str(file))
    assert "unknown option --seeds" in refusal("--seeds=3", aside=aside)
    assert "unknown option --losses" in refusal("--config", str(file), "--losses", "crl", aside=aside)
    wrong = write(tmp_path, "losses: [cel]\nseedz: 5\n")
    assert "unknown key seedz" in refusal("--config", str(wrong), aside=aside)
    with pytest.raises(SystemExit):
        parse("--help", aside=aside)
    assert "losses" not in capsys.readouterr().out


def test_help_lists_every_option_with_its_words(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as leaving:
        parse("--help", config_type=Wish)
    text = " ".join(capsys.readouterr().out.split())
    assert leaving.value.code == 0
    assert "--train.lr" in text
    assert "the backbone's learning rate" in text
    assert "a test" in text


def test_suggestions():
    assert suggestion("lrr", ["lr", "epochs"]) == " (did you mean lr?)"
    assert suggestion("zzz", ["lr", "epochs"]) == "; known: epochs, lr"
    assert suggestion("zzz", ["lr", "epochs"], listed=False) == ""


@dataclass(frozen=True)
class Service:
    """A command with flags.

    Args:
        serve: whether.
        auto_port: whether.
        port: where.
    """

    serve: bool = True
    auto_port: bool = False
    port: int = 1


def test_flags_stand_alone_turned_round_with_dashes_or_with_a_value():
    def serve(*words: str) -> tuple[bool, bool, int]:
        config = parse(*words, config_type=Service)[0]
        return config.serve, config.auto_port, config.port

    assert serve("--no-serve", "--auto-port") == (False, True, 1)
    assert serve("--no_serve", "--auto_port", "--port", "-1") == (False, True, -1)
    assert serve("--serve", "false", "--auto-port", "true") == (False, True, 1)
    assert serve("--serve=False", "--auto-port", "--port=7") == (False, True, 7)
    assert "--serve must be bool, got maybe" in refusal("--serve=maybe", config_type=Service)


@dataclass(frozen=True)
class Compiling:
    """A flag that a word may stand for.

    Args:
        compile: whether to.
        port: where.
    """

    compile: bool | Literal["auto"] = "auto"
    port: int = 1


def test_a_flag_that_has_a_word_too_stands_alone_as_any_other():
    def compiled(*words: str) -> bool | str:
        return parse(*words, config_type=Compiling)[0].compile

    assert (
        compiled("--compile") is compiled("--compile", "--port", "7") is compiled("--compile", "true") is True
    )
    assert compiled("--no-compile") is compiled("--compile=false") is False
    assert compiled("--compile", "auto") == compiled() == "auto"
    told = refusal("--compile", "maybe", config_type=Compiling)
    assert "--compile must be one of auto, true, false, got maybe" in told


def test_a_flag_takes_no_word_away_and_words_may_stand_behind_options():
    words = ("a", "--auto-port", "b", "--port", "7", "c", "-")
    config, _, named = parse(*words, config_type=Service, positionals={"paths...": "files"})
    assert (config, named) == (Service(auto_port=True, port=7), {"paths": "a\nb\nc\n-"})


def test_an_option_without_its_value_is_refused():
    assert "--port" in refusal("--port", "--auto-port", config_type=Service)
    assert "unknown option --no-port" in refusal("--no-port", config_type=Service)


def test_an_option_that_holds_any_names_takes_them_dotted_and_comes_back_from_yaml(tmp_path: Path):
    words = ["--head.options.dropout", "0.25", "--loss.branches.main", "crl", "--head.taps", "last-1,16"]
    config = parse_options(FitConfig, words, prog="crl", about="")[0]
    assert (config.head.options, config.head.taps) == ({"dropout": 0.25}, ("last-1", 16))
    assert config.loss.branches == {"main": "crl"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(to_dict(config)), encoding="utf-8")
    assert load_config(FitConfig, tmp_path / "config.yaml") == config


def test_a_number_without_end_is_refused_wherever_it_is_given(tmp_path: Path):
    told = "--{} must be a finite number, got {}"
    assert refusal("--train.lr", ".inf") == told.format("train.lr", "inf")
    assert refusal("--train.lr", "1e400", "--run.checkpoint_minutes=-.inf").splitlines() == [
        told.format("train.lr", "inf"),
        told.format("run.checkpoint_minutes", "-inf"),
    ]
    file = write(tmp_path, "train: {momentum: .nan}\nhead: {options: {dropout: .inf}}\n")
    broken = {told.format("train.momentum", "nan"), told.format("head.options.dropout", "inf")}
    assert broken < set(refusal("--config", file).splitlines())
    assert "alpha of crl:alpha=inf must be a finite number" in refusal("--loss", "crl:alpha=inf")
    assert refusal("--rates", "1,.inf", config_type=Rates) == told.format("rates", "inf")


def test_a_file_in_another_encoding_is_refused_by_the_encodings_name(tmp_path: Path):
    file = tmp_path / "my.yaml"
    for encoding, told in (("utf-16", "UTF-16 text, not UTF-8"), ("utf-32", "UTF-32 text, not UTF-8")):
        file.write_bytes("train: {lr: 0.5}".encode(encoding))
        assert (
            refusal(f"--config={file}") == f'{file}: {told}; save it as UTF-8 (editors: "Save with encoding")'
        )
        assert f"{file}: {told}; save it as UTF-8" in refusal("--train", str(file))
    for content, told in (
        (b"lr: caf\xe9", "byte 7 is not UTF-8"),
        ("lr: 1".encode("utf-16-le"), "zero bytes"),
    ):
        file.write_bytes(content)
        assert told in refusal(f"--config={file}")
    file.write_bytes("train: {lr: 0.5}".encode("utf-8-sig"))
    assert parse("--config", str(file))[0].train.lr == 0.5
