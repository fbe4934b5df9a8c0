"""Objects from nodes: only allowed names, arguments that bind, nested nodes first."""

import sys

import pytest
import torch

from astroclip_train.config import targets
from astroclip_train.config.targets import allow_target, build, build_optimizer, locate
from astroclip_train.errors import ConfigError


def test_builds_nested_nodes():
    sequence = build(
        {
            "_target_": "torch.nn.TransformerEncoder",
            "encoder_layer": {"_target_": "torch.nn.TransformerEncoderLayer", "d_model": 8, "nhead": 2},
            "num_layers": 2,
        }
    )
    assert len(sequence.layers) == 2


def test_optimiser_takes_parameters_from_the_caller():
    parameter = torch.nn.Parameter(torch.zeros(3))
    optimizer = build({"_target_": "torch.optim.AdamW", "lr": 0.1, "betas": [0.9, 0.95]}, params=[parameter])
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_an_optimiser_without_a_fused_step_is_built_without():
    parameters = [torch.nn.Parameter(torch.zeros(3))]
    node = {"lr": 0.1, "betas": [0.9, 0.95], "fused": True}
    assert build_optimizer({"_target_": "torch.optim.AdamW", **node}, parameters).param_groups[0]["fused"]
    assert (
        "fused" not in build_optimizer({"_target_": "torch.optim.NAdam", **node}, parameters).param_groups[0]
    )


def test_partial_waits_for_the_rest():
    make = build({"_target_": "torch.nn.Linear", "_partial_": True, "out_features": 3})
    assert make(in_features=2).weight.shape == (3, 2)


@pytest.mark.parametrize(
    "target", ["os.system", "subprocess.run", "builtins.eval", "torch.load", "torchvision.x", "pickle.loads"]
)
def test_everything_else_is_refused(target):
    with pytest.raises(ConfigError, match="is not allowed"):
        build({"_target_": target})


@pytest.mark.parametrize(
    "target", ["torch.nn.modules.sys.exit", "astroclip_train.config.targets.importlib.import_module"]
)
def test_no_way_out_through_a_module_that_another_imports(target):
    with pytest.raises(ConfigError):
        build({"_target_": target})


def test_what_a_module_imported_from_elsewhere_is_not_its_own():
    with pytest.raises(ConfigError, match="comes from contextlib"):
        locate("astroclip_train.training.loggers.contextmanager")


def test_private_names_and_modules_are_refused():
    with pytest.raises(ConfigError, match="is private"):
        locate("astroclip_train.config.targets._build")
    with pytest.raises(ConfigError, match="cannot be called"):
        locate("astroclip_train.config.targets")


def test_nearest_class_and_nearest_argument():
    with pytest.raises(ConfigError, match=r"did you mean torch\.nn\.Linear\?"):
        build({"_target_": "torch.nn.Linaer"})
    with pytest.raises(ConfigError, match="in_feature is not an argument of Linear: did you mean"):
        build({"_target_": "torch.nn.Linear", "in_feature": 1, "out_features": 2})
    with pytest.raises(ConfigError, match="has no out_features, which Linear needs"):
        build({"_target_": "torch.nn.Linear", "in_features": 1})


def test_a_package_is_allowed_by_name_only(tmp_path, monkeypatch):
    (tmp_path / "foreign_pkg.py").write_text("def thing(x):\n    return x + 1\n")
    (tmp_path / "foreign_pkg2.py").write_text("def thing(x):\n    return x + 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(targets, "_extra", [])
    with pytest.raises(ConfigError, match="add --allow-target foreign_pkg"):
        build({"_target_": "foreign_pkg.thing", "x": 1})
    allow_target("foreign_pkg")
    assert build({"_target_": "foreign_pkg.thing", "x": 1}) == 2
    with pytest.raises(ConfigError, match="is not allowed"):
        build({"_target_": "foreign_pkg2.thing", "x": 1})
    sys.modules.pop("foreign_pkg", None)


def test_constructor_errors_name_the_node():
    with pytest.raises(ConfigError, match=r"torch\.optim\.AdamW cannot be built .*[Ii]nvalid learning rate"):
        build({"_target_": "torch.optim.AdamW", "lr": -1.0}, params=[torch.nn.Parameter(torch.zeros(1))])
