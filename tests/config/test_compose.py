"""Composition: spellings, scales, users' folders, interpolations, and what the packaged files promise."""

import itertools
import re
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from astroclip_train.config.compose import compose, compose_raw, sweep_parameters
from astroclip_train.config.folder import conf_folder, groups
from astroclip_train.errors import ConfigError

CONF = conf_folder()
FILES = sorted(p.relative_to(CONF).as_posix() for p in CONF.rglob("*.yaml"))


@pytest.mark.parametrize("spelling", ["+experiment=specclip", "experiment=specclip", "++experiment=specclip"])
def test_every_spelling_of_experiment_is_accepted(spelling):
    cfg = compose([spelling, "scale=tiny"])
    assert list(cfg.stages) == ["lrs", "xp", "align", "heads"]
    assert (cfg.experiment, cfg.scale, cfg.choices.dataset) == ("specclip", "tiny", "mock_stars")


def test_scale_switches_all_stages_and_sizes_by_scale():
    tiny, paper = (
        compose(["+experiment=specclip", "scale=tiny"]),
        compose(["+experiment=specclip", "scale=paper"]),
    )
    assert (tiny.stages.lrs.encoder.width, paper.stages.lrs.encoder.width) == (16, 768)
    assert (tiny.stages.align.heads.xp.hidden, paper.stages.align.heads.xp.hidden) == (24, 1160)
    assert paper.stages.align.trainer.max_steps == 10_000
    assert tiny.dataset.n < paper.dataset.n


def test_values_win_over_files_whatever_their_order():
    first = compose(["stages.lrs.trainer.max_steps=7", "+experiment=specclip", "scale=tiny"])
    assert first.stages.lrs.trainer.max_steps == 7


def test_machine_settings_reach_every_stage():
    cfg = compose(["+experiment=specclip", "trainer.precision=bf16-mixed", "trainer.devices=2"])
    assert {s.trainer.precision for s in cfg.stages.values()} == {"bf16-mixed"}
    assert {s.trainer.devices for s in cfg.stages.values()} == {2}


def test_published_conventions_are_one_switch():
    ours = compose(["+experiment=specclip", "scale=paper"])
    theirs = compose(["+experiment=specclip", "scale=paper", "conventions=published"])
    assert (ours.stages.lrs.encoder.attention_scale, theirs.stages.lrs.encoder.attention_scale) == (
        "standard",
        "published",
    )
    assert theirs.stages.align.objective.decoders.norm == "batch"
    assert (ours.stages.xp.scheduler.floor, theirs.stages.xp.scheduler.floor) == (0.01, 0.0)


def test_user_folder_stands_beside_the_packaged_one(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - /experiment/specclip\n  - _self_\nlabels: {n: 77}\n"
    )
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset/own.yaml").write_text("_target_: astroclip_train.data.mock.MockStars\nn: 50\n")
    cfg = compose(["+experiment=mine", "dataset=own"], [tmp_path])
    assert (cfg.labels.n, cfg.dataset.n, cfg.experiment) == (77, 50, "mine")
    with pytest.raises(ConfigError, match=r"experiment=mine does not exist"):
        compose(["+experiment=mine"])


def test_stage_datasets_by_name_path_and_weight():
    several = "stages.lrs.dataset=[mock_stars,{path: a.h5, weight: 0.5}]"
    cfg = compose(["+experiment=specclip", "scale=tiny", several, "stages.xp.dataset=mock_stars"])
    first, second = cfg.stages.lrs.dataset
    assert (first.weight, first.dataset.n) == (1.0, cfg.dataset.n)
    assert (second.weight, second.dataset.path) == (0.5, "a.h5")
    assert cfg.stages.xp.dataset == cfg.dataset


def test_unresolved_configuration_keeps_interpolations():
    cfg = compose(["+experiment=specclip"], resolved=False)
    assert OmegaConf.is_interpolation(cfg.stages.lrs.trainer, "precision")


def test_a_scale_without_an_entry_is_told(tmp_path):
    (tmp_path / "scale").mkdir()
    (tmp_path / "scale/huge.yaml").write_text("# @package _global_\nscale: huge\n")
    with pytest.raises(ConfigError, match=r"huge"):
        compose(["+experiment=specclip", "scale=huge"], [tmp_path])


def test_sweep_files_give_parameters():
    assert sweep_parameters(["+experiment=specclip", "+sweep=labels"]) == ["labels.n=100,300,1000,3000,10000"]
    assert sweep_parameters(["+experiment=specclip"]) == []


def test_composition_leaves_no_global_state():
    from hydra.core.global_hydra import GlobalHydra

    compose(["+experiment=specclip"])
    assert not GlobalHydra.instance().is_initialized()


def header_command(name):
    """The command of a file's first comment and what to expect of it."""
    head = "\n".join(x for x in (CONF / name).read_text().splitlines() if x.startswith("#"))
    found = re.search(r"Command: astro-train (.+?) \((.+)\)$", head, re.MULTILINE)
    assert found, f"{name} gives no command with what to expect in brackets"
    return [w for w in found[1].split() if w != "-m"], found[2]


def first_point(words):
    """The first run of a sweep, or the one run that the words are."""
    return tuple(w.split(",")[0] if "[" not in w else w for w in words)


def files_of(name):
    """A file and those of its group that it builds on."""
    plain = [
        d for d in (yaml.safe_load((CONF / name).read_text()) or {}).get("defaults", []) if isinstance(d, str)
    ]
    folder = Path(name).parent.as_posix()
    return {name}.union(*(files_of(f"{folder}/{other}.yaml") for other in plain if other != "_self_"))


@pytest.mark.parametrize("name", FILES)
def test_packaged_files_begin_with_what_they_are_and_a_command(name):
    text = (CONF / name).read_text()
    comments = list(itertools.takewhile(lambda line: line.startswith("#"), text.splitlines()))
    words = " ".join(comments)
    assert comments, f"{name} has no comment"
    assert "astro-train" in words, f"{name} names no command"
    assert yaml.safe_load(text) is not None


def test_commands_in_the_packaged_files_compose():
    """Each `astro-train …` of a header is a command that composes, so that nobody copies a dead one."""
    commands = set()
    groups_seen: set[str] = set()
    for name in FILES:
        group = name.split("/")[0]
        if group in groups_seen and group not in ("experiment", "sweep"):
            continue  # one of a group: the others differ in a name that `choices` below checks
        groups_seen.add(group)
        commands.add(first_point(header_command(name)[0]))
    assert len(commands) > 10
    for words in sorted(commands):
        assert compose(words, resolved=False).stages, words


@pytest.mark.parametrize("name", FILES)
def test_every_packaged_file_says_what_to_expect(name):
    assert re.search(r"\d|changes no number|no figure", header_command(name)[1])


@pytest.mark.slow
def test_every_packaged_command_uses_its_file():
    """Whoever copies the command of a file gets that file."""
    used = {}
    for name in FILES:
        if (words := first_point(header_command(name)[0])) not in used:
            choices = compose_raw(words)["hydra"]["runtime"]["choices"]
            files = [f"{group.split('@')[0]}/{choice}.yaml" for group, choice in choices.items() if choice]
            used[words] = {"config.yaml"}.union(*(files_of(f) for f in files if f in FILES))
        assert name in used[words], f"{name}: astro-train {' '.join(words)} does not use it"


def test_choices_in_the_packaged_commands_exist():
    known = groups([CONF])
    for name in FILES:
        for word in header_command(name)[0]:
            group, _, choice = word.lstrip("+").partition("=")
            if group.split("@")[0] in known:
                assert choice in known[group.split("@")[0]], f"{name}: {word}"


def test_groups_are_read_from_file_names(tmp_path):
    found = groups([CONF])
    assert {"dataset", "encoder", "objective", "head", "scale", "variant", "experiment"} <= set(found)
    assert found["scale"] == ["demo", "paper", "tiny"]
    assert groups([Path(tmp_path)]) == {}
