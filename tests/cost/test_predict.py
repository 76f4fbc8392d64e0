"""The cost model: its arithmetic, the rates of other hardware, and the output of a dry run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from advise_ray.cli.main import main
from advise_ray.cost.predict import Rates, Workload, predict, read_rates
from advise_ray.errors import UsageError
from tests.runs import set_options

GPUS = Rates(100, 1000, 2000, 500, workers=2, cores=18, use_gpu=True)
WORK = Workload(
    train_clips=8000, val_clips=300, epochs=10, validations=10, frames_per_clip=8, cached_frames=400_000, views=2,
    frame_bytes=1000,
)  # fmt: skip


def test_a_run_that_a_person_can_reckon() -> None:
    """1,660 clips/s are decoded by 16 cores; 2 GPUs encode 500 clips/s and train 1,000."""
    cost = predict(WORK, GPUS)
    encode_s, train_s = 83_000 * 8 / 4000, (80_000 + 1_000) / 1000
    assert cost["live_hours"] * 3600 == pytest.approx(encode_s + train_s)
    assert cost["cached_hours"] * 3600 == pytest.approx(train_s)
    assert cost["cache_hours"] * 3600 == pytest.approx(800_000 / 4000)
    assert cost["cache_bytes"] == 800_000_000
    assert cost["cache_pays_from_epoch"] == 13  # 200 s to make, 16.6 s saved an epoch
    assert cost["decode_cores_per_worker"] == pytest.approx(1 / (8 / 2000 + 1 / 500) / 100)


def test_what_is_slowest_sets_the_pace() -> None:
    few_cores = predict(WORK, replace(GPUS, cores=4))
    assert few_cores["live_hours"] * 3600 == pytest.approx(83_000 / 200)
    slow_disk = predict(WORK, replace(GPUS, read_bytes_per_s=1e6))
    assert slow_disk["cached_hours"] * 3600 == pytest.approx(83_000 * 8 * 1000 / 1e6)
    assert predict(WORK, replace(GPUS, read_bytes_per_s=1e3))["cache_pays_from_epoch"] is None


rate = st.floats(1, 1e6)


@given(rate, rate, rate, rate, st.integers(1, 64), st.booleans())
def test_more_hardware_never_takes_longer(
    clips: float, frames: float, ifm: float, tmm: float, workers: int, use_gpu: bool
) -> None:
    rates = Rates(clips, frames, ifm, tmm, workers, workers * 4, use_gpu)
    more = replace(rates, cores=rates.cores * 2, decode_clips_per_s=2 * clips, ifm_frames_per_s=2 * ifm)
    before, after = predict(WORK, rates), predict(WORK, more)
    assert all(after[name] <= before[name] * (1 + 1e-9) for name in ("live_hours", "cached_hours", "cache_hours"))
    assert before["cached_hours"] <= before["live_hours"]


def test_rates_that_cannot_be_used_are_all_named(tmp_path: Path) -> None:
    path = tmp_path / "rates.yaml"
    with pytest.raises(UsageError, match="cannot be read"):
        read_rates(path)
    path.write_text("{workers: 0, use_gpu: 1, tmm: 3, decode_clips_per_s: 1, decode_frames_per_s: 1, cores: 2}")
    with pytest.raises(UsageError) as caught:
        read_rates(path)
    lines = str(caught.value).splitlines()
    assert [line.split()[1] for line in lines] == ["ifm_frames_per_s", "tmm_clips_per_s", "tmm", "workers", "use_gpu"]


def test_a_dry_run_predicts_by_measured_and_by_given_rates(
    manifest: Path, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    settings = set_options([*tiny, f"data.manifest={manifest}"])
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("{}")
    run = CliRunner()
    measured = run.invoke(main, ["train", "--config", str(recipe), *settings, "--dry-run", "--json"])
    assert measured.exit_code == 0, measured.stderr
    cost = json.loads(measured.stdout)["cost"]
    assert 0 < cost["cached_hours"] < cost["live_hours"]
    assert all(cost["rates"][name] > 0 for name in ("decode_clips_per_s", "ifm_frames_per_s", "tmm_clips_per_s"))
    rates = tmp_path / "rates.yaml"
    rates.write_text(json.dumps({**cost["rates"], "read_bytes_per_s": 1e9, "workers": 64, "use_gpu": True}))
    out = tmp_path / "cache"
    dry = ["cache", "--config", str(recipe), *settings, "--out", str(out), "--dry-run", "--json"]
    given_rates = run.invoke(main, [*dry, "--rates", str(rates)])
    assert given_rates.exit_code == 0, given_rates.stderr
    result = json.loads(given_rates.stdout)
    assert result["cost"]["rates"]["workers"] == 64
    assert result["frames_to_encode"] == 24 * 120
    assert result["bytes"] == pytest.approx(result["cost"]["cache_bytes"], rel=0.1)
    assert not out.exists()
    assert run.invoke(main, ["train", "--rates", str(rates)]).exit_code == 2
