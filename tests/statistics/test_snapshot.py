"""A look from aggregates to a stored snapshot."""

from __future__ import annotations

import json
from typing import Any

import pytest

from experiments.statistics import (
    Estimate,
    LookInputs,
    NotEstimable,
    SequentialSRM,
    Snapshot,
    TokenMeans,
    analyse,
)
from tests.statistics.builders import arm, design, look

MEANS = TokenMeans(thinking=800.0, answer=50.0, probe=100.0, overrun=50.0)
LOOKS = {
    "ship": look(arm("full", token_means=MEANS), arm("early", 1_000, 950, 600.0)),
    "no labels": look(arm("full", 50, None), arm("early", 50, None)),
    "one unit": look(arm("full", 1, 1), arm("early", 1, 0)),
    "no traffic": look(arm("full", 0, None), arm("early", 0, None)),
    "three arms": look(arm("full"), arm("early"), arm("late", 900, 500), reverted=("harsh",)),
}


def _through_json(snapshot: Snapshot) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(json.dumps(snapshot.to_dict(), allow_nan=False))
    return data


@pytest.mark.parametrize("name", sorted(LOOKS))
def test_snapshot_survives_json(name: str) -> None:
    snapshot = analyse(LOOKS[name])
    assert Snapshot.from_dict(_through_json(snapshot)) == snapshot


def test_snapshot_survives_a_store_that_sorts_keys() -> None:
    snapshot = analyse(LOOKS["three arms"])
    shuffled = json.loads(json.dumps(snapshot.to_dict(), sort_keys=True))
    assert Snapshot.from_dict(shuffled) == snapshot


def test_equal_inputs_give_equal_snapshots_in_any_order_of_arms() -> None:
    given = LOOKS["three arms"]
    turned = LookInputs(given.design, given.arms[::-1], reverted=given.reverted)
    assert analyse(turned) == analyse(given)


def test_the_control_comes_first() -> None:
    snapshot = analyse(look(arm("early"), arm("full")))
    assert [item.key for item in snapshot.arms] == ["full", "early"]
    assert [item.is_control for item in snapshot.arms] == [True, False]


def test_arms_show_their_estimates_and_token_means() -> None:
    shown = analyse(LOOKS["ship"]).arms[0]
    assert isinstance(shown.em, Estimate)
    assert (shown.em.value, shown.em.method, shown.em.anytime_valid) == (0.9, "wilson", False)
    assert isinstance(shown.decoded_tokens, Estimate)
    assert shown.decoded_tokens.value == pytest.approx(1_000)
    assert shown.token_means == MEANS


def test_arms_without_labels_say_so() -> None:
    snapshot = analyse(LOOKS["no labels"])
    assert snapshot.arms[1].em == NotEstimable("arm 'early' has no labelled completions")
    assert snapshot.to_dict()["arms"][1]["em"] == {"not_estimable": "arm 'early' has no labelled completions"}


def test_the_next_look_continues_the_sequential_srm() -> None:
    first = analyse(look(arm("full", 700, 630), arm("early", 200, 180)))
    second = analyse(look(arm("full"), arm("early"), srm=first.srm))
    assert second.srm.counts == {"full": 1_000, "early": 1_000}
    assert second.srm.p_value == first.srm.p_value < 0.05


def test_an_srm_state_of_other_weights_is_refused() -> None:
    state = SequentialSRM.start({"full": 0.9, "early": 0.1})
    with pytest.raises(ValueError, match=r"srm.weights must be the design's"):
        analyse(look(arm("full"), arm("early"), srm=state))


def test_arms_must_be_the_variants_of_the_design() -> None:
    with pytest.raises(ValueError, match=r"arms must be \['early', 'full'\], got \['full', 'late'\]"):
        LookInputs(design("early"), (arm("full"), arm("late")))


def test_another_schema_version_is_refused() -> None:
    data = _through_json(analyse(LOOKS["ship"])) | {"schema_version": 99}
    with pytest.raises(ValueError, match="schema_version must be 2, got 99"):
        Snapshot.from_dict(data)


def test_a_missing_field_is_refused_by_its_path() -> None:
    data = _through_json(analyse(LOOKS["ship"]))
    del data["arms"][1]["exposures"]
    with pytest.raises(ValueError, match=r"snapshot.arms\[1\] must have the fields"):
        Snapshot.from_dict(data)


def test_a_field_of_another_type_is_refused_by_its_path() -> None:
    data = _through_json(analyse(LOOKS["ship"]))
    data["total_units"] = "many"
    with pytest.raises(ValueError, match=r"snapshot.total_units must be int, got 'many'"):
        Snapshot.from_dict(data)
