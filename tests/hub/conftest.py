"""A small run directory as the stages write it, of real modules with random weights, and a store for it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from astroclip_train.data.grids import Grid
from astroclip_train.data.modality import ModalityInfo
from astroclip_train.data.store import Store, StoreWriter
from astroclip_train.hub.build import build_module
from astroclip_train.training.checkpoint import save_checkpoint

LABELS = ["teff", "feh"]
UNITS = {"teff": "K", "feh": "dex"}
INFOS = {
    "lrs": ModalityInfo(
        "LAMOST LRS", Grid("log10", 3.65, 1e-3, 67), "", "vacuum", "heliocentric", "R=1800", ("continuum",)
    ),
    "xp": ModalityInfo(
        "Gaia XP", Grid("linear", 336.0, 12.0, 41, "nm"), "", "vacuum", "observed", "R=50", ("flux_550nm",)
    ),
}
ENCODERS = {
    "lrs": {
        "_target_": "astroclip_train.encoders.MaskedTransformer",
        "length": 67,
        "width": 16,
        "depth": 1,
        "heads": 2,
        "window": 20,
        "stride": 10,
    },
    "xp": {"_target_": "astroclip_train.encoders.AutoEncoder", "length": 41, "width": 16, "hidden": 24},
}
HEADS = {
    "lrs": {
        "_target_": "astroclip_train.heads.AttentionHead",
        "n_tokens": 6,
        "width": 16,
        "features": 12,
        "heads": 2,
    },
    "xp": {
        "_target_": "astroclip_train.heads.MLPBranchHead",
        "n_tokens": 1,
        "width": 16,
        "features": 12,
        "hidden": 20,
    },
}
OBJECTIVE = {
    "_target_": "astroclip_train.objectives.bound.bound",
    "objective": {"_target_": "astroclip_train.objectives.DecoderMI", "widths": {"lrs": [8], "xp": [8]}},
    "pixels": {"lrs": 67, "xp": 41},
    "features": {"lrs": 12, "xp": 12},
}


def metadata(*modalities):
    return {
        "modalities": {m: INFOS[m].to_attributes() for m in modalities},
        "labels": LABELS,
        "label_units": UNITS,
        "data": "0" * 64,
    }


def write_stage(folder: Path, stage: str, plans: dict, extra: dict, modules: dict | None = None) -> dict:
    modules = modules or {name: build_module(plan) for name, plan in plans.items()}
    content = {
        "stage": stage,
        "step": 1,
        "fingerprint": "x",
        "modules": {name: module.state_dict() for name, module in modules.items()},
        "architecture": plans,
        "metadata": extra,
    }
    save_checkpoint(folder / "checkpoints" / "best-00000001.ckpt", content)
    return modules


@pytest.fixture(scope="session")
def store_path(tmp_path_factory) -> Path:
    """24 stars with both spectra; star 3 has no good LRS pixel."""
    path = tmp_path_factory.mktemp("store") / "stars.h5"
    rng = np.random.default_rng(0)
    with StoreWriter(path, created_by="test") as writer:
        rows = {}
        for m, info in INFOS.items():
            writer.add_modality(m, info)
            flux = 1 + 0.1 * rng.normal(size=(24, info.grid.n))
            mask = np.ones(flux.shape, bool)
            mask[3 if m == "lrs" else [], :] = False
            mask[5, 2] = False
            rows[m] = writer.append(m, flux=flux, ivar=np.full(flux.shape, 100.0), mask=mask)
        names = np.array([f"star{i}" for i in range(24)])
        writer.set_samples(names, np.char.add("obs-", names), rows)
        writer.set_label("teff", rng.uniform(4000, 7000, 24), "K", "test")
        writer.set_label("feh", rng.normal(size=24), "dex", "test")
    return path


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Path:
    """A run directory with the stages lrs, xp, align and heads."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("runs") / "specclip" / "tiny"
    (path / "stages").mkdir(parents=True)
    (path / "config.yaml").write_text("stages: {lrs: {}, xp: {}, align: {}, heads: {}}\n")
    encoders = {}
    for m, plan in ENCODERS.items():
        extra = metadata(m) | {"modality": m}
        objective = {"_target_": "torch.nn.Identity"}
        encoders[m] = write_stage(path / "stages" / m, m, {"encoder": plan, "objective": objective}, extra)[
            "encoder"
        ]
    plans = {f"encoders.{m}": p for m, p in ENCODERS.items()} | {f"heads.{m}": p for m, p in HEADS.items()}
    plans["objective"] = OBJECTIVE
    modules = {
        name: encoders[name[9:]] if name[:9] == "encoders." else build_module(p) for name, p in plans.items()
    }
    write_stage(path / "stages" / "align", "align", plans, metadata("lrs", "xp"), modules)
    identity = {"_target_": "torch.nn.Identity"}
    mean = {"_target_": "astroclip_train.encoders.pooling.MeanPool", "width": 16}
    tasks = {
        "flow__lrs.aligned": (
            "FlowHead",
            {"transforms": 1, "hidden": [8], "widths": [8]},
            12,
            {"lrs.aligned": identity},
        ),
        "mlp__lrs.single+xp.aligned": (
            "MLPHead",
            {"widths": [8], "heteroscedastic": True},
            28,
            {"lrs.single": mean | {"n_tokens": 6}, "xp.aligned": identity},
        ),
        "linear__xp.raw": ("LinearHead", {}, 41, {"xp.raw": identity}),
    }
    for task, (head, more, width, pools) in tasks.items():
        plan = {"_target_": f"astroclip_train.heads.{head}", "in_features": width, "labels": LABELS} | more
        plans = {"head": plan} | {f"pools.{n}": p for n, p in pools.items()}
        modules = {name: build_module(p) for name, p in plans.items()}
        modules["head"].prepare(torch.randn(50, width), 5000 + 500 * torch.randn(50, 2))
        write_stage(
            path / "stages/heads/tasks" / task, f"heads/{task}", plans, metadata("lrs", "xp"), modules
        )
    return path


@pytest.fixture
def spectra(store_path):
    """Flux, ivar, mask of both modalities for the first 8 stars, as stored."""
    store = Store(store_path, max_bad_fraction=1.0)
    return {m: store.read(m, np.arange(8)) for m in INFOS}
