"""The parts of the embedding (motion, looks, their scale), and the prediction of masked frames."""

from __future__ import annotations

import pytest
import torch

from advise_ray.config import load
from advise_ray.errors import ConfigError
from advise_ray.model.advise import AdViSe, build_advise
from advise_ray.model.heads import MeanMaxPool
from advise_ray.model.norm import synchronise_batch_norm

pytestmark = pytest.mark.usefixtures("one_thread")
LOOKS = ("model.head.looks_weight=0.5", "model.head.normalise=true")


def build(tiny: tuple[str, ...], *settings: str) -> AdViSe:
    return build_advise(load(None, [*tiny, *settings]), 3)


def features(model: AdViSe, num_clips: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(num_clips, model.ifm.feature_dim, 4, 3, 3, generator=generator)


def test_the_strongest_cell_counts_beside_the_mean() -> None:
    x = torch.zeros(1, 1, 2, 3, 3)
    x[0, 0, 0, 1, 1] = 9.0
    torch.testing.assert_close(MeanMaxPool()(x), torch.tensor([[0.5, 4.5]]))


def test_looks_stand_behind_motion_and_neither_knows_the_other(tiny: tuple[str, ...]) -> None:
    model = build(tiny, "task=action", *LOOKS).eval()
    x = features(model)
    other_looks = x + torch.randn(6, x.shape[1], 1, 1, 1)
    other_motion = x[:, :, [3, 1, 0, 2]]
    with torch.no_grad():
        before, repainted, moved = (model.temporal.embed(each) for each in (x, other_looks, other_motion))
    assert before.shape == (6, 32 + x.shape[1])
    torch.testing.assert_close(repainted[:, :32], before[:, :32], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(moved[:, 32:], before[:, 32:], rtol=1e-4, atol=1e-5)
    assert (repainted[:, 32:] - before[:, 32:]).abs().max() > 0.1
    assert model.temporal.classify(before).shape == (6, 3)
    assert model.temporal.head_dim == before.shape[1]


def test_what_tells_rates_apart_does_not_see_looks(tiny: tuple[str, ...]) -> None:
    model = build(tiny, *LOOKS).eval()
    x = features(model)
    with torch.no_grad():
        torch.testing.assert_close(model.temporal(x + 5.0), model.temporal(x), rtol=1e-4, atol=1e-4)
    assert model.temporal.head_dim == 32
    assert model.temporal.embed(x).shape[1] == 32 + x.shape[1]


def test_both_parts_have_one_scale_after_training_on_them(tiny: tuple[str, ...]) -> None:
    model = build(tiny, "task=action", "model.head.looks_weight=1", "model.head.normalise=true").train()
    x = 7.0 * features(model, 64) + 3.0
    with torch.no_grad():
        for _ in range(60):
            model.temporal.embed(x)
        embedding = model.temporal.eval().embed(x)
    assert embedding.mean(0).abs().max() < 0.1
    spread = embedding.std(0)
    assert spread[32:].min() > 0.8
    assert spread.max() < 1.2


def test_standardised_channels_make_their_scale_of_no_matter(tiny: tuple[str, ...]) -> None:
    model = build(tiny, "model.sfu.standardise=true").train()
    x = model.sfu.arrange(features(model).transpose(1, 2))
    scales = torch.logspace(-1, 2, x.shape[1]).view(1, -1, 1, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(model.temporal(x * scales), model.temporal(x), rtol=1e-2, atol=1e-2)


def test_norms_without_parameters_are_synchronised_as_they_are(tiny: tuple[str, ...]) -> None:
    temporal = build(tiny, "model.sfu.standardise=true", *LOOKS).temporal
    names = set(temporal.state_dict())
    synced = synchronise_batch_norm(temporal, torch.device("cpu"))
    assert set(synced.state_dict()) == names
    x = torch.randn(6, synced.standardise.num_features, 4, 3, 3)
    assert synced(x).isfinite().all()


def test_hidden_frames_are_predicted_from_the_others(tiny: tuple[str, ...]) -> None:
    model = build(tiny, "pretext.masked_frames=1", "model.sfu.standardise=true").train()
    patterns = torch.randn(2, model.ifm.feature_dim, generator=torch.Generator().manual_seed(1))
    rising = torch.einsum("bkhw,kc,t->bcthw", torch.randn(6, 2, 3, 3), patterns, torch.linspace(-1, 1, 4))
    hidden = torch.tensor([[True, False, False, False]] * 6)
    optimizer = torch.optim.AdamW(model.temporal.parameters(), lr=1e-2)
    errors = []
    for _ in range(100):
        logits, error = model.temporal(rising, hidden)
        assert (logits.shape, error.shape) == ((6, 3), (6,))
        optimizer.zero_grad()
        error.sum().backward()
        optimizer.step()
        errors.append(float(error.detach().mean()))
    assert errors[-1] < 0.1 * errors[0]
    assert model.temporal(rising).shape == (6, 3)


def test_what_is_hidden_cannot_be_worked_out_from_what_centring_leaves(tiny: tuple[str, ...]) -> None:
    model = build(tiny, "pretext.masked_frames=1").train()
    x = features(model)
    other = x.clone()
    other[:, :, 1] += 3.0  # in the hidden frame alone
    hidden = torch.tensor([[False, True, False, False]] * 6)
    seen: list[torch.Tensor] = []
    model.temporal.tmm.register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
    with torch.no_grad():
        for clips in (x, other):
            model.temporal(model.sfu.arrange(clips.transpose(1, 2)), hidden)
    torch.testing.assert_close(seen[1], seen[3], rtol=1e-4, atol=1e-5)


def test_the_averages_of_a_masked_pass_are_not_kept(tiny: tuple[str, ...]) -> None:
    model = build(tiny, "pretext.masked_frames=1").train()
    x = model.sfu.arrange(features(model).transpose(1, 2))
    with torch.no_grad():
        model.temporal(x)
        once = {name: value.clone() for name, value in model.temporal.tmm.state_dict().items() if "running" in name}
        model = build(tiny, "pretext.masked_frames=1").train()
        model.temporal(x, torch.tensor([[False, True, False, False]] * 6))
    for name, value in once.items():
        torch.testing.assert_close(model.temporal.tmm.state_dict()[name], value)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (["model.head.looks_weight=1"], "model.head.looks_weight: needs model.head.normalise=true"),
        (["pretext.masked_frames=4"], "pretext.masked_frames: must be below data.clip.num_frames"),
        (["pretext.masked_frames=1", "task=action"], "pretext.masked_frames: needs task=prp"),
        (["pretext.masked_frames=1", "model.kind=r3d50"], "model.kind=r3d50 has no frozen features to predict"),
        (["model.kind=r3d50", "model.sfu.standardise=true"], "model.kind: r3d50 has no features"),
    ],
)
def test_what_does_not_fit_together_is_refused(tiny: tuple[str, ...], settings: list[str], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        load(None, [*tiny, *settings])
