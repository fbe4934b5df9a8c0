"""Wrong commands and the sentence that each of them is answered with, before any data is opened."""

import pytest

from astroclip_train.cli.train import main
from astroclip_train.config.compose import compose
from astroclip_train.config.validate import validate, validate_structure
from astroclip_train.errors import ConfigError

S = "+experiment=specclip"
ALIGN = "stages.align"
MLP = "stages.heads.tasks.mlp"
T = [  # the masked transformer at scale demo
    "encoder@stages.lrs.encoder=lrs_transformer_demo",
    "objective@stages.lrs.objective=masked_lrs_demo",
    "pooling@stages.heads.pooling.lrs=position",
]

WRONG = [
    ([], "no experiment is named: begin with +experiment=NAME"),
    (["+experiment=speclip"], "experiment=speclip does not exist: did you mean experiment=specclip?"),
    ([S, "scale=papr"], "scale=papr does not exist: did you mean scale=paper? The choices are demo, paper, tiny."),
    ([S, "stages.heads.tasks.mlp.head.norm=foo"], "stages.heads.tasks.mlp.head: norm='foo' is not known"),
    ([S, "stages.heads.tasks.cnn.encoder.channels=[8]"], "tasks.cnn.encoder: ConvEncoder: 1 channels, 3 kernels"),
    ([S, "stages.heads.optimizer.lr=-1"], "stages.heads.optimizer: torch.optim.AdamW cannot be built"),
    ([S, "labels.names=[]"], "labels.names is empty: name at least one"),
    ([S, "dataset.n=-5"], "dataset: mock stars need n ≥ 1"),
    ([S, "dataset.bounds=foo"], "bounds is 'foo', expected test, evaluation, all or none."),
    (
        [S, "+stages.heads.tasks.linear.per_input={lrs.raw: {trainer: {max_steps: 300}}}"],
        "per_input has lrs.raw, which is not an input of the task",
    ),
    (
        [S, "+stages.heads.tasks.linear.per_input={lrs.aligned: {traner: {max_steps: 300}}}"],
        "per_input.lrs.aligned.traner is not a key: did you mean",
    ),
    (
        [S, "+augment@stages.heads.tasks.cnn.augment=spectrum", "stages.heads.tasks.cnn.augment.shift=2"],
        "augment.shift moves spectra by pixels but leaves labels as they are",
    ),
    ([S, "varient=clip"], "varient is not a key: there is no varient in the configuration, did you mean variant?"),
    ([S, "dataset=stor"], "did you mean dataset=store?"),
    ([S, "optimizer=sgd"], "optimizer is not used by this experiment: did you mean optimizer@stages."),
    ([S, "optimizer@stages.lr.optimizer=sgd"], "did you mean optimizer@stages.lrs.optimizer?"),
    ([S, "optimizer@stages.lrs.optimizer=sdg"], "did you mean optimizer@stages.lrs.optimizer=sgd?"),
    ([S, f"{MLP}.per_input.lrs.raw.trainer.max_steps=5"], "per_input={lrs.raw: {KEY: VALUE}}', which changes"),
    ([S, f"{MLP}.per_input={{lrs.raw: {{optimizer: {{lr: 1}}}}}}"], "takes no new key lrs.raw.optimizer: to add"),
    ([S, "run.sed=1"], "run.sed is not a key: there is no sed in run, did you mean run.seed?"),
    ([S, "+run.sed=1"], "run.sed is not a key: did you mean run.seed?"),
    ([S, "++run.sed=1"], "run.sed is not a key: did you mean run.seed?"),
    ([S, "+typo=1"], "typo is not a key: a configuration has "),
    ([S, "+run.seed=3"], "run.seed exists already: write run.seed=VALUE without the plus."),
    ([S, "~run.bla"], "run.bla is not a key"),
    ([S, "foo"], "'foo' is not an override: write key=value"),
    ([S, "a b=3"], "'a b=3' cannot be read as key=value"),
    ([S, "run.seed=1,2"], "run.seed=1,2 gives several values: add -m to sweep over them, or write run.seed=[1,2]"),
    ([S, "run.root=${nope}"], "run.root refers to nope, which is not in the configuration"),
    ([S, "+stages.lrs.trainer.max_step=9"], "did you mean stages.lrs.trainer.max_steps?"),
    ([S, "stages.lrs.trainer.max_steps=abc"], "stages.lrs.trainer.max_steps=abc must be a whole number of at least 1."),
    ([S, "stages.lrs.trainer.max_steps=0"], "must be a whole number of at least 1."),
    ([S, "stages.lrs.trainer.max_steps=1.5"], "must be a whole number"),
    ([S, "stages.lrs.trainer.precision=bf17"], "must be one of 32-true, bf16-mixed, 16-mixed."),
    ([S, "run.fresh=maybe"], "run.fresh=maybe must be true or false."),
    ([S, "run.seed=null"], "run.seed=null must be a whole number"),
    ([S, "labels.n=-3"], "labels.n=-3 must be a whole number of at least 1 or null."),
    ([S, "labels.names=teff"], "must be a list of names: write labels.names=[teff]."),
    ([S, "labels.names=[teff,teff]"], "labels.names has teff twice"),
    ([S, "data.max_bad_fraction=2"], "must be a number from 0 to 1."),
    ([S, "run.stages=align"], "write run.stages=[align]."),
    ([S, "run.stages=[algn]"], "run.stages names algn, which is not a stage of this experiment: did you mean align?"),
    ([S, "run.stages=[]"], "run.stages is empty"),
    ([S, "stages.lrs._stage_=pretrian"], "stages.lrs._stage_=pretrian is not a kind of stage: did you mean pretrain?"),
    ([S, "+stages.new.x=3"], "stages.new has no _stage_"),
    ([S, "stages.lrs=null"], "stages.lrs=null must be a stage"),
    ([S, "stages.lrs.scheduler.name=cosine"], "must be one of warmup_cosine, constant, one_cycle."),
    ([S, "stages.lrs.scheduler.warmup_steps=99999"], "is longer than trainer.max_steps="),
    ([S, "stages.lrs.trainer.accumulate=7"], "is not divisible by accumulate=7"),
    ([S, f"{ALIGN}.objective.temperature=15.5"], "it is 1 / logit scale: a scale of 15.5 is temperature=0.06452."),
    ([S, f"{ALIGN}.encoders.lrs.from=lsr"], "nor an existing checkpoint or folder: did you mean lrs?"),
    ([S, f"{ALIGN}.encoders.lrs.from=heads"], "is stage heads, which comes later: name an earlier one (lrs, xp)"),
    ([S, f"{ALIGN}.encoders.lrs.from=align"], "is the stage itself"),
    ([S, f"~{ALIGN}.heads.xp"], "encoders.xp has no head"),
    ([S, f"{MLP}.inputs=[lrs.alined]"], "did you mean lrs.aligned?"),
    ([S, f"{MLP}.inputs=[]"], "inputs is empty"),
    ([S, f"{MLP}.inputs=[image.single]"], "stages.heads.encoders has no image (it has lrs, xp)"),
    ([S, "stages.heads.aligned=null"], "stages.heads.aligned is not set"),
    ([S, "stages.heads.tasks.finetune.init=mpl"], "is not an earlier task: did you mean mlp?"),
    ([S, "stages.heads.tasks.finetune.inputs=[lrs.raw]"], "finetune=true needs inputs <modality>.single"),
    ([S, "dataset=store"], "dataset.path has no value: give dataset.path=VALUE."),
    ([S, "dataset=store", "dataset.path=no.h5"], "dataset.path=no.h5 does not exist"),
    ([S, "stages.lrs.dataset=[{path: x.h5}]"], "stages.lrs.dataset.0.dataset.path=x.h5 does not exist"),
    ([S, "run.name=a/b"], "run.name=a/b is not usable as a folder name"),
    ([S, "run.name=x.g002"], "ends like a generation"),
    ([S, "run.extend=100000"], "run.extend=100000 needs one stage whose schedule it lengthens"),
    ([S, "run.extend=3", "run.stages=[lrs]"], "is shorter than the"),
    ([S, "run.stages=[align]"], "stage align needs stage lrs, which is not finished in "),
    ([S, "--config-dir", "/nowhere"], "--config-dir /nowhere is not a folder"),
    ([S, "--multrun"], "--multrun is not an option of astro-train: did you mean --multirun?"),
    ([S, "--cfg", "jobs"], "invalid choice: 'jobs'"),
    ([S, "--cfg", "job", "-p", "stages.lsr"], "did you mean stages.lrs?"),
    (["-m", S, "stages.lrs.trainer.max_steps=500,abc"], "job 2 of 2 (stages.lrs.trainer.max_steps=abc): "),
    (["-m", S, "run.name=x", "run.seed=0,1"], "would both write to "),
    (["-m", S, "data.num_workers=0,1"], "vary keys that change the mathematics"),
    ([S, *T, "stages.lrs.encoder.width=100", "stages.lrs.encoder.heads=3"], "width=100 is not divisible by heads=3"),
    ([S, "stages.lrs.encoder.width=abc"], "stages.lrs.encoder.width=abc must be a whole number"),
    ([S, *T, "+stages.lrs.encoder.widht=64"], "argument of MaskedTransformer: did you mean stages.lrs.encoder.width?"),
    ([S, "stages.lrs.encoder._target_=os.system"], "is not allowed: only astroclip_train, torch.optim"),
    ([S, "stages.lrs.encoder._target_=astroclip_train.encoders.MaskedTransformr"], "encoders.MaskedTransformer?"),
    ([S, "stages.lrs.encoder._target_=astroclip_train.nowhere.X"], "cannot be imported"),
    ([S, "~stages.lrs.encoder._target_"], "stages.lrs.encoder has no _target_"),
    ([S, "stages.lrs.optimizer.lr=fast"], "stages.lrs.optimizer.lr=fast must be a number"),
    ([S, *T, "stages.lrs.objective.fill=zero"], "does not fit stages.lrs.encoder.masking=drop"),
    # an encoder whose length is that of the data, which is not open yet
    ([S, "encoder@stages.xp.encoder=conv"], "xp.objective: Autoencode needs AutoEncoder, not ConvEncoder: choose"),
    ([S, "objective@stages.xp.objective=masked_xp_demo"], "MaskedReconstruction needs MaskedTransformer, not Auto"),
    ([S, *T, "stages.lrs.objective.keep=1.5"], "keep=1.5 must lie between 0 and 1"),
    ([S, *T, "stages.lrs.encoder.stride=50"], "stages.lrs.encoder: "),
    ([S, "scale=paper", f"{ALIGN}.heads.lrs.heads=7"], "stages.align.heads.lrs: "),
    ([S, "variant=clip_split", f"{ALIGN}.heads.lrs.shared=500"], "the bottleneck splits embeddings of 192"),
    ([S, f"{ALIGN}.heads.lrs.features=64"], "must have one length"),
    ([S, "stages.heads.tasks.flow.head.transforms=-1"], "flow.head.transforms=-1 must not be negative"),
    ([S, "stages.heads.tasks.mlp.head.widths=[64,-2]"], "mlp.head.widths=[64, -2] must not be negative"),
    ([S, "stages.xp.trainer.monitor=val_accuracy"], "monitor=val_accuracy is not measured there: choose"),
    ([S, "stages.heads.trainer.monitor=loss"], "trainer.monitor=loss is not measured there: choose one of val_loss."),
    ([S, "callbacks=timer", "callbacks.timer.duration=soon"], "callbacks.timer"),
]  # fmt: skip


@pytest.fixture
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("command", "sentence"), WRONG, ids=[" ".join(c) or "nothing" for c, _ in WRONG])
def test_a_wrong_command_is_answered_with_one_sentence(command, sentence, empty_folder, capsys):
    assert main(command) == 2
    told = capsys.readouterr().err.strip()
    assert told.startswith("astro-train: ")
    assert sentence in told
    assert "\n" not in told
    assert "Traceback" not in told
    assert told.endswith((".", "?"))
    assert not list(empty_folder.iterdir()), "a refused command leaves nothing behind"


@pytest.mark.parametrize(
    "choice",
    [
        "scale=tiny variant=clip", "scale=tiny variant=clip_split", "scale=demo variant=clip_r",
        "scale=demo variant=clip_p",
        "scale=paper variant=clip_pr", "scale=paper variant=clip_split conventions=published",
    ],
)  # fmt: skip
def test_every_variant_is_valid(choice):
    validate(compose(["+experiment=specclip", *choice.split()]))


@pytest.mark.parametrize(
    "extra",
    [
        ["encoder@stages.xp.encoder=xp_transformer_tiny", "objective@stages.xp.objective=masked_xp_tiny"],
        ["encoder@stages.lrs.encoder=lrs_autoencoder_tiny", "objective@stages.lrs.objective=autoencode"],
        ["pooling@stages.heads.pooling.lrs=attention"],
        [
            "scheduler@stages.lrs.scheduler=constant",
            "optimizer@stages.lrs.optimizer=sgd",
            "optimizer@stages.align.optimizer=adam",
        ],
        ["logger=wandb_offline", "callbacks=timer"],
        ["vars.mine=3", "labels.n=100"],
    ],
)
def test_choices_of_the_groups_are_valid_together(extra):
    extra = [f"+{e}" if e.startswith("vars.") else e for e in extra]
    validate(compose(["+experiment=specclip", "scale=tiny", *extra]))


def test_structure_is_checked_without_torch(tmp_path):
    import subprocess
    import sys

    code = (
        "import sys\n"
        "from astroclip_train.config.compose import compose\n"
        "from astroclip_train.config.validate import validate_structure\n"
        "validate_structure(compose(['+experiment=specclip']))\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout.strip() == "False"


def test_a_missing_model_is_asked_for():
    with pytest.raises(ConfigError, match=r"model.* has no value"):
        validate_structure(compose(["+experiment=finetune", f"dataset.path={__file__}"]))


def test_schema_knows_every_trainer_setting():
    """A setting that the fit understands but the schema does not could never be given."""
    import dataclasses

    from astroclip_train.config.schema import Trainer
    from astroclip_train.training.fit import FitSettings

    known = {f.name for f in dataclasses.fields(Trainer)}
    assert {f.name for f in dataclasses.fields(FitSettings)} == known


def test_schema_fields_are_documented():
    import ast
    import inspect

    from astroclip_train.config import schema

    for node in ast.parse(inspect.getsource(schema)).body:
        if isinstance(node, ast.ClassDef) and any(isinstance(x, ast.AnnAssign) for x in node.body):
            assert ast.get_docstring(node), node.name
            if node.name in ("Target", "AtLeast", "Between"):
                continue
            for field, after in zip(node.body[1:], [*node.body[2:], None], strict=True):
                if isinstance(field, ast.AnnAssign):
                    assert isinstance(after, ast.Expr), (
                        f"{node.name}.{ast.unparse(field.target)} has no docstring"
                    )
