"""The feature cache: resumable, the same bits, safe beside a second job."""

from pathlib import Path

import numpy as np
import pytest
import torch

from astroclip_train.training import cache as module
from astroclip_train.training.cache import build_cache, rounded

N, TOKENS, WIDTH = 5000, 3, 4
SAMPLES = np.arange(0, N, 2)


def encode(samples: np.ndarray) -> torch.Tensor:
    base = torch.as_tensor(samples, dtype=torch.float32)[:, None, None]
    return torch.sin(base * 0.37 + torch.arange(TOKENS * WIDTH).reshape(TOKENS, WIDTH))


def build(root: Path, owner: str = "a", function=encode, samples: np.ndarray = SAMPLES):
    shape = (max(N, int(samples[-1]) + 1), TOKENS, WIDTH)
    return build_cache(function, samples, shape, root, "key", owner, "test")


def test_lookup_is_rounded_features(tmp_path: Path) -> None:
    cache = build(tmp_path)
    index = torch.tensor([8, 2, 4998])
    assert torch.equal(cache(index), rounded(encode(index.numpy())))
    assert not cache(torch.tensor([1])).any()


def test_interrupted_pass_goes_on(tmp_path: Path) -> None:
    seen: list[int] = []

    def dying(samples: np.ndarray) -> torch.Tensor:
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(int(samples[0]))
        return encode(samples)

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, function=dying)
    whole = build(tmp_path / "other")
    again = build(tmp_path)
    assert np.array_equal(again.data, whole.data)
    assert [p.name for p in (tmp_path / "features").iterdir()] == ["key"]


def test_half_built_cache_that_lost_its_features_is_built_anew(tmp_path: Path) -> None:
    seen: list[int] = []

    def dying(samples: np.ndarray) -> torch.Tensor:
        if len(seen) == 9:  # beyond the first note of progress
            raise KeyboardInterrupt
        seen.append(int(samples[0]))
        return encode(samples)

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, function=dying, samples=np.arange(12_000))
    (features,) = tmp_path.glob("features/*/features.bin")
    assert (features.parent / "progress.json").exists()
    features.unlink()
    again = build(tmp_path, samples=np.arange(12_000))
    assert np.array_equal(again.data, build(tmp_path / "other", samples=np.arange(12_000)).data)


def test_second_builder_loses_gracefully(tmp_path: Path) -> None:
    def racing(samples: np.ndarray) -> torch.Tensor:
        build(tmp_path, owner="b")
        return encode(samples)

    cache = build(tmp_path, owner="a", function=racing)
    assert torch.equal(cache(torch.tensor([6])), rounded(encode(np.array([6]))))
    assert [p.name for p in (tmp_path / "features").iterdir()] == ["key"]


def test_too_large_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 1000

    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: Usage)
    with pytest.raises(module.RunError, match=r"needs 0\.0 GB but .* set data\.cache_root"):
        build(tmp_path)
