"""Training: the optimiser, the schedule, and a short run whose loss falls."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from demo.tiny_reasoner.batches import BatchPlan
from demo.tiny_reasoner.checkpoints import CheckpointEntry, read_index, write_index
from demo.tiny_reasoner.model import build_config, build_model, load_checkpoint, save_checkpoint
from demo.tiny_reasoner.optimizer import Muon, learning_rate_scale, orthogonalise
from demo.tiny_reasoner.tokenizer import TOKEN_IDS, build_tokenizer
from demo.tiny_reasoner.training import Phase, Recipe, StepReport, token_weights, train


def _short_run(seed: int) -> list[StepReport]:
    recipe = Recipe(
        phases=(
            Phase(steps=12, plan=BatchPlan(batch_size=4, draft_only=True), branch_weight=0.1),
            Phase(steps=3, plan=BatchPlan(batch_size=2, draft_only=False), branch_weight=1.0),
        )
    )
    model = build_model(build_config(hidden_size=64, layers=2, heads=1, mlp_size=96), seed)
    reports: list[StepReport] = []
    train(model, build_tokenizer(), recipe, seed, reports.append)
    return reports


def test_short_training_lowers_the_loss() -> None:
    reports = _short_run(seed=0)
    assert [report.step for report in reports] == list(range(1, 16))
    # An untrained model is near log(60) = 4.09 nats.
    assert reports[0].sequence_loss == pytest.approx(4.09, abs=0.5)
    assert reports[11].sequence_loss < reports[0].sequence_loss - 0.8
    assert reports[11].branch_loss < reports[0].branch_loss


def test_training_is_repeatable() -> None:
    first, second = _short_run(seed=1), _short_run(seed=1)
    assert first[-1].sequence_loss == pytest.approx(second[-1].sequence_loss, rel=1e-3)


@pytest.mark.parametrize("shape", [(8, 24), (24, 8), (16, 16)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn(3, *shape, generator=generator)
    values = torch.linalg.svdvals(orthogonalise(matrices))
    # Newton-Schulz with these coefficients oscillates around 1 (Jordan et al. 2024); small ones may lag.
    assert values.max() < 1.3
    assert values.median() > 0.6


def test_muon_takes_matrices_only() -> None:
    with pytest.raises(ValueError, match=r"params must be matrices, got one of shape \(3,\)"):
        Muon([torch.nn.Parameter(torch.zeros(3))], lr=0.1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0.0}, "lr must be > 0, got 0.0"),
        ({"lr": 0.1, "momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        ({"lr": 0.1, "weight_decay": -1.0}, "weight_decay must be >= 0, got -1.0"),
    ],
)
def test_muon_refuses_settings_out_of_bounds(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Muon([torch.nn.Parameter(torch.zeros(3, 3))], **settings)


@pytest.mark.parametrize(
    ("progress", "scale"), [(0.0, 0.0), (0.01, 0.5), (0.02, 1.0), (0.6, 1.0), (0.8, 0.5), (1.0, 0.02)]
)
def test_learning_rate_warms_up_and_decays(progress: float, scale: float) -> None:
    assert learning_rate_scale(progress, warmup=0.02, decay=0.4) == pytest.approx(scale)


def test_tags_and_headers_weigh_more() -> None:
    weights = token_weights(Recipe())
    assert weights[TOKEN_IDS[" no"]] == 6.0
    assert weights[TOKEN_IDS["oops"]] == weights[TOKEN_IDS["</think>"]] == 3.0
    assert weights[TOKEN_IDS["b"]] == 1.0


def test_saving_leaves_the_model_and_stores_its_weights(tmp_path: Path) -> None:
    model = build_model(build_config(hidden_size=32, layers=1, heads=1, mlp_size=48), seed=0)
    save_checkpoint(model, tmp_path / "step-1", dtype=torch.float32)
    loaded = load_checkpoint(tmp_path / "step-1")
    assert model.dtype == model.config.dtype == torch.float32
    for name, weights in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weights), name


def test_index_round_trip(tmp_path: Path) -> None:
    entries = [CheckpointEntry(step, tmp_path / f"step-{step}", 0.5, 0.25) for step in (20, 10)]
    for entry in entries:
        entry.path.mkdir()
    write_index(entries, tmp_path)
    assert read_index(tmp_path) == sorted(entries, key=lambda entry: entry.step)


def test_index_that_names_a_missing_directory_is_refused(tmp_path: Path) -> None:
    write_index([CheckpointEntry(1, tmp_path / "step-1", 0.5, 0.25)], tmp_path)
    with pytest.raises(ValueError, match="path must be a directory beside the index, got 'step-1'"):
        read_index(tmp_path)
