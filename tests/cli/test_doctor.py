"""`astro-model doctor`: everything that support needs, and nothing that opens a door."""

import json

import pytest

from astroclip_train.cli.doctor import redact
from astroclip_train.cli.model import main
from astroclip_train.config.compose import compose
from astroclip_train.training.run_dir import RunDir

COMMAND = ["+experiment=specclip", "scale=tiny"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with RunDir(compose(COMMAND), COMMAND) as run_dir:
        run_dir.metrics.write("lrs", 1, {"loss": 2.5})
    logs = run_dir.path / "logs"
    logs.mkdir(exist_ok=True)
    logs.joinpath("rank-1.log").write_text("".join(f"line {i}\n" for i in range(100)) + "api_key=abcdef\n")
    return run_dir.path


def test_it_tells_launches_versions_logs_and_disk(run, capsys):
    assert main(["doctor", str(run)]) == 0
    page = capsys.readouterr().out
    for words in (
        "job 12 restart 1",
        "== lease\n  free",
        "torch 2",
        "line 99",
        "loss",
        "inodes free",
        "== disk",
    ):
        assert words in page
    assert "line 1\n" not in page


def test_no_secret_leaves(run, monkeypatch, tmp_path):
    secrets = {
        "WANDB_API_KEY": "s3cr3t-1", "ASTRO_TRAIN_PASS": "s3cr3t-2", "WANDB_BASE_URL": "https://me:s3cr3t-3@w.org/x",
        "SLURM_JWT_TOKEN": "s3cr3t-4", "GITHUB_TOKEN": "s3cr3t-5",
    }  # fmt: skip
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    record = json.loads((run / "run.json").read_text())
    record["error"] = "download of https://u:s3cr3t-6@host/f failed, token: s3cr3t-7"
    (run / "run.json").write_text(json.dumps(record))
    (run / "logs" / "rank-0.log").write_text(
        'Authorization: Bearer s3cr3t-8\npassword = \'s3cr3t 9\'\n{"secret": "s3cr3t-10"}\n'
    )
    out = tmp_path / "report.txt"
    assert main(["doctor", str(run), "--output", str(out)]) == 0
    page = out.read_text()
    assert "s3cr3t" not in page
    assert "https://(hidden)@w.org/x" in page


@pytest.mark.parametrize("line", ["n_tokens: 146", "key: 12", "monitor: val_loss", "tokenizer: {patch: 10}"])
def test_what_is_no_secret_stays(line):
    assert redact(line) == line


def test_a_damaged_file_hides_nothing_else(run, capsys):
    (run / "environment.json").write_text("{")
    assert main(["doctor", str(run)]) == 0
    page = capsys.readouterr().out
    assert "could not be read: DataError" in page
    assert "line 99" in page


def test_another_folder_is_refused(tmp_path, capsys):
    assert main(["doctor", str(tmp_path)]) == 2
    assert "is not a run directory" in capsys.readouterr().err
