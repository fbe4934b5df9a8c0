"""metrics.csv: unique rows, growing columns, torn lines, cutting back."""

import csv

import pytest

from astroclip_train.training.metrics_log import MetricsLog


def rows(path):
    with open(path, newline="") as handle:
        return list(csv.DictReader(handle))


def test_rows_merge_and_columns_grow(tmp_path):
    log = MetricsLog(tmp_path / "metrics.csv")
    log.write("lrs", 1, {"loss": 2.0})
    log.write("lrs", 2, {"loss": 1.5})
    log.write("lrs", 2, {"val_loss": 1.75, "nothing": None})
    log.write("xp", 1, {"loss": 0.1 + 0.2, "flag": True})
    assert rows(log.path) == [
        {"stage": "lrs", "step": "1", "loss": "2.0", "val_loss": "", "flag": ""},
        {"stage": "lrs", "step": "2", "loss": "1.5", "val_loss": "1.75", "flag": ""},
        {"stage": "xp", "step": "1", "loss": repr(0.1 + 0.2), "val_loss": "", "flag": "1"},
    ]
    assert log.last_step("lrs") == 2


def test_a_new_object_goes_on(tmp_path):
    first = MetricsLog(tmp_path / "metrics.csv")
    for step in range(1, 6):
        first.write("lrs", step, {"loss": step / 3})
    second = MetricsLog(tmp_path / "metrics.csv")
    second.write("lrs", 5, {"val_loss": 1.0})
    second.write("lrs", 6, {"loss": 2.0})
    assert [r["step"] for r in rows(second.path)] == list("123456")
    assert float(rows(second.path)[4]["loss"]) == 5 / 3


@pytest.mark.parametrize("torn", [1, 5, 10])
def test_a_torn_line_is_dropped(tmp_path, torn):
    log = MetricsLog(tmp_path / "metrics.csv")
    log.write("lrs", 1, {"loss": 0.125})
    log.write("lrs", 2, {"loss": 0.25})
    whole = log.path.read_bytes()
    log.path.write_bytes(whole[:-torn])
    again = MetricsLog(log.path)
    assert [r["step"] for r in rows(log.path)] == ["1"]
    again.write("lrs", 2, {"loss": 0.25})
    assert log.path.read_bytes() == whole


def test_rows_beyond_a_checkpoint_are_cut(tmp_path):
    log = MetricsLog(tmp_path / "metrics.csv")
    for stage in ("lrs", "xp"):
        for step in range(1, 5):
            log.write(stage, step, {"loss": step})
    assert log.cut("lrs", 2) == 2
    assert [(r["stage"], r["step"]) for r in rows(log.path)] == [
        ("lrs", "1"), ("lrs", "2"), ("xp", "1"), ("xp", "2"), ("xp", "3"), ("xp", "4"),
    ]  # fmt: skip
    log.write("lrs", 3, {"loss": 9})
    assert len(rows(log.path)) == 7
    assert log.cut("xp", -1) == 4
    assert log.cut("xp", -1) == 0


def test_names_with_commas_survive(tmp_path):
    log = MetricsLog(tmp_path / "metrics.csv")
    log.write("heads/mlp__lrs.raw", 1, {'probe "a", b': 1.0})
    again = MetricsLog(tmp_path / "metrics.csv")
    again.write("heads/mlp__lrs.raw", 2, {'probe "a", b': 2.0})
    assert [r['probe "a", b'] for r in rows(log.path)] == ["1.0", "2.0"]


def test_a_foreign_file_is_replaced(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_bytes(b"\xff\xfe garbage")
    MetricsLog(path).write("lrs", 1, {"loss": 1.0})
    assert len(rows(path)) == 1
