"""NLLR without a clamp was its exact form: what was stored then goes on meaning that."""

from __future__ import annotations

import pytest
import yaml

from agecls.config import AgeConfig
from finetune.cli.options import load_config, parse_options
from finetune.errors import UsageError
from finetune.experiments.records.record import RunRecord
from finetune.runs.folder import RunFolder, read_config
from finetune.runs.former_losses import as_meant, loss_text, recorded_loss, todays_arm, told_in_full
from finetune.training.config import LossConfig, RunConfig, to_dict
from finetune.training.learner import loss_settings
from generalcls.config import GeneralRunOneConfig, GeneralStudyConfig

EXACT, PUBLISHED = LossConfig("nllr:clamp=0"), LossConfig("nllr")


def before(config):
    """Return a configuration as it was stored before the default changed: without the clamp."""
    content = to_dict(config)
    content["loss"] = {**content["loss"], "options": {}, "branches": {"main": "nllr"}}
    return content


@pytest.fixture
def stored(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    content = before(AgeConfig(loss=PUBLISHED, run=RunConfig(dir=str(folder))))
    (folder / "config.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return folder


def test_a_run_folder_of_that_time_is_the_exact_form_on_every_way_in(stored, capsys):
    told = read_config(stored / "config.yaml")["loss"]
    assert (told["options"], told["branches"]) == ({"clamp": 0.0}, {"main": "nllr:clamp=0"})
    loaded = load_config(AgeConfig, stored / "config.yaml").loss
    assert loaded == LossConfig("nllr:clamp=0", branches={"main": "nllr:clamp=0"})
    assert "is of a time when nllr meant nllr:clamp=0: read so" in capsys.readouterr().out


def test_it_goes_on_as_the_exact_form_without_a_change_and_not_as_another(stored):
    config = load_config(AgeConfig, stored / "config.yaml")
    exact = to_dict(AgeConfig(loss=config.loss.resolved(), run=config.run))
    with RunFolder.open(stored, exact, resume="auto") as run:
        assert (run.resumed, run.changes) == (True, ())
    published = to_dict(AgeConfig(loss=PUBLISHED.resolved(), run=config.run))
    with pytest.raises(UsageError, match=r"loss\.options\.clamp: 0\.0 -> 1e-07"):
        RunFolder.open(stored, published, resume="auto")


def test_what_is_stored_today_is_told_in_full_and_read_as_it_is(tmp_path):
    config = AgeConfig(loss=LossConfig("nllr", branches={"main": "nllr"}).resolved(), run=RunConfig(dir="x"))
    with RunFolder.open(tmp_path / "run", to_dict(config), resume="never"):
        pass
    assert read_config(tmp_path / "run" / "config.yaml")["loss"]["branches"] == {"main": "nllr:clamp=1e-07"}
    assert load_config(AgeConfig, tmp_path / "run" / "config.yaml").loss == config.loss
    assert config.loss.options == {"clamp": 1e-7}


@pytest.mark.parametrize(
    ("content", "loss"),
    [
        ("loss: nllr", PUBLISHED),
        ("loss: {name: nllr}", PUBLISHED),
        ("loss: {name: nllr, clamp: null}", EXACT),
        ("loss: {name: nllr, options: {clamp: 0.001}}", LossConfig("nllr:clamp=1e-3")),
    ],
)
def test_a_file_that_no_program_wrote_means_todays(tmp_path, content, loss):
    file = tmp_path / "mine.yaml"
    file.write_text(content, encoding="utf-8")
    assert load_config(AgeConfig, file).loss.resolved() == loss.resolved()


def test_the_words_of_a_general_run_and_of_a_study_too(tmp_path):
    for config_type, key, now, then in (
        (GeneralRunOneConfig, "loss", "nllr", "nllr:clamp=0"),
        (GeneralStudyConfig, "losses", ["cel", "nllr"], ["cel", "nllr:clamp=0"]),
    ):
        content = {**to_dict(config_type()), key: now}
        content["run"] = {**content["run"], "dir": "runs/x"}
        file = tmp_path / f"{key}.yaml"
        file.write_text(yaml.safe_dump(content), encoding="utf-8")
        config, _, _ = parse_options(config_type, ["--config", str(file)], prog="crl", about="")
        found = getattr(config, key)
        assert (found if isinstance(found, str) else list(found)) == then
        assert as_meant(told_in_full(content)) == told_in_full(content) != content


def test_a_record_of_that_time_is_the_exact_form():
    for stored in ({"name": "nllr", "clamp": None}, {"name": "nllr"}):
        record = RunRecord.from_dict({"class_names": ["a"], "loss": stored})
        assert record.loss == {"name": "nllr", "clamp": 0.0}
        assert loss_text(record.loss) == "nllr, exact"
    assert recorded_loss(loss_settings(PUBLISHED)) == loss_settings(PUBLISHED)
    assert recorded_loss({"name": "crl", "clamp": None}) == {"name": "crl", "clamp": None}


@pytest.mark.parametrize(
    ("then", "now"),
    [
        ("nllr", "nllr-clamp0"),
        ("nllr-clamp0.001", "nllr-clamp0.001"),
        ("nllr-clamp1e-07", "nllr"),
        ("cel", "cel"),
    ],
)
def test_arms_of_that_time(then, now):
    assert todays_arm(then) == now
