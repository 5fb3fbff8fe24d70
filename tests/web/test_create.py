"""The form of a new experiment."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from experiments.models import Experiment, UseCase
from experiments.services import experiments as service
from experiments.web.draft import even_weights
from tests.web.conftest import make_experiment, make_use_case

NEW = "/experiments/new/"


def typed(**changes: Any) -> dict[str, Any]:
    """What a person types: one conservative treatment at 50 percent."""
    return {
        "shown_use_case": "arithmetic",
        "use_case": "arithmetic",
        "name": "Early exit",
        "hypothesis": "",
        "unit": "conversation",
        "margin": "5",
        "min_saving": "20",
        "maximum_units": "3000",
        "control_weight": "50",
        "control_checkpoint": "",
        "treatment": ["0"],
        "t0-key": "conservative",
        "t0-choice": "preset:conservative",
        "t0-checkpoint": "",
        "t0-weight": "50",
        "save": "1",
        **changes,
    }


def test_form_starts_with_the_margin_of_the_use_case(pages: Client, use_case: UseCase) -> None:
    text = pages.get(NEW).content.decode()
    assert 'name="margin" value="5"' in text
    assert 'name="min_saving" value="20"' in text


def test_form_without_a_use_case_says_what_is_missing(pages: Client) -> None:
    assert "No use case yet" in pages.get(NEW).content.decode()


def test_every_input_has_a_label(pages: Client, use_case: UseCase) -> None:
    form = pages.get(NEW).context["draft"]
    text = pages.get(NEW).content.decode()
    fields = [*form.design, *form.treatments[0]]
    fields += [field for sub in form.treatments[0].parameter_forms.values() for field in sub]
    assert [field.html_name for field in fields if f'<label for="{field.id_for_label}">' not in text] == []


def test_valid_input_becomes_a_draft_with_stored_fractions(pages: Client, use_case: UseCase) -> None:
    response = pages.post(NEW, typed())
    experiment = Experiment.objects.get()
    assert response.headers["Location"] == f"/experiments/{experiment.pk}/"
    assert experiment.state == "draft"
    assert (experiment.margin, experiment.min_saving) == (0.05, 0.2)
    assert [(v.key, v.is_control, v.weight) for v in experiment.variants.all()] == [
        ("full", True, 0.5),
        ("conservative", False, 0.5),
    ]
    assert experiment.variants.get(key="conservative").checkpoint == use_case.checkpoint


def test_save_and_start_starts(pages: Client, use_case: UseCase) -> None:
    pages.post(NEW, {**typed(), "start": "1"})
    assert Experiment.objects.get().state == "running"


def test_start_that_is_refused_leaves_the_draft(pages: Client, use_case: UseCase) -> None:
    service.start("ada", make_experiment(use_case, "First"))
    response = pages.post(NEW, {**typed(name="Second"), "start": "1"}, follow=True)
    assert "Saved as a draft, but not started" in response.content.decode()
    assert Experiment.objects.get(name="Second").state == "draft"


def test_policy_parameters_are_stored(pages: Client, use_case: UseCase) -> None:
    parameters = {"patience": "3", "probe_every": "16", "min_thinking_tokens": "0", "max_thinking_tokens": ""}
    parameters["wrap_up"] = "In short, "
    fields = {f"t0-answer_convergence-{name}": value for name, value in parameters.items()}
    pages.post(NEW, typed(**{"t0-choice": "policy:answer_convergence"}, **fields))
    assert Experiment.objects.get().variants.get(is_control=False).policy == {
        "name": "answer_convergence",
        "parameters": {
            "patience": 3,
            "probe_every": 16,
            "min_thinking_tokens": 0,
            "max_thinking_tokens": None,
            "wrap_up": "In short, ",
        },
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": " "}, "Name must not be empty."),
        ({"margin": "300"}, "Margin must be above 0 and below 100 points, got 300."),
        ({"margin": "0"}, "Margin must be above 0 and below 100 points, got 0."),
        ({"margin": "five"}, "Margin must be a number above 0 and below 100 points, got &#x27;five&#x27;."),
        ({"margin": "nan"}, "Margin must be a number above 0 and below 100 points, got &#x27;nan&#x27;."),
        ({"margin": ""}, "Margin is needed: a number above 0 and below 100 points."),
        ({"min_saving": "100"}, "Minimum saving must be above \N{MINUS SIGN}100 and below 100 %, got 100."),
        ({"maximum_units": "1"}, "Maximum units must be from 2 to 2,147,483,647 units, got 1."),
        ({"use_case": "unknown"}, "This use case is not registered."),
        ({"control_weight": "60"}, "The weights of all arms must add up to 100%, they add up to 110%."),
        ({"t0-key": "full"}, "Keys must differ, and &#x27;full&#x27; names another arm."),
        ({"t0-key": "a b"}, "Key may hold letters, digits, - and _ only, got &#x27;a b&#x27;."),
        ({"t0-choice": "policy:none"}, "The policy must be one of the list, got policy:none."),
        (
            {"t0-choice": "policy:answer_convergence", "t0-answer_convergence-patience": "1"},
            "Patience must be at least 2, got 1.",
        ),
        (
            {"t0-choice": "policy:token_budget", "t0-token_budget-max_thinking_tokens": ""},
            "Max thinking tokens must be an integer, got &#x27;&#x27;.",
        ),
        (
            {"t0-choice": "policy:confidence", "t0-confidence-threshold": "95"},
            "Threshold must be at most 1, got 95.0.",
        ),
    ],
)
def test_wrong_input_is_named_with_its_bound(
    pages: Client, use_case: UseCase, changes: dict[str, str], message: str
) -> None:
    response = pages.post(NEW, typed(**changes))
    assert response.status_code == 422
    assert message in response.content.decode()
    assert not Experiment.objects.exists()


def test_typed_values_are_kept_after_an_error(pages: Client, use_case: UseCase) -> None:
    response = pages.post(NEW, typed(margin="300", hypothesis="It settles early."))
    text = response.content.decode()
    assert 'name="margin" value="300"' in text
    assert "It settles early." in text


def test_checkpoint_of_another_model_is_refused(pages: Client, use_case: UseCase) -> None:
    other = make_use_case("other").checkpoint
    response = pages.post(NEW, typed(**{"t0-checkpoint": str(other.pk)}))
    assert response.status_code == 422
    assert "must belong to model model-of-arithmetic" in response.content.decode()


def test_parameters_of_a_policy_that_was_not_chosen_do_not_matter(pages: Client, use_case: UseCase) -> None:
    pages.post(NEW, typed(**{"t0-confidence-threshold": "95"}))
    assert Experiment.objects.count() == 1


def test_thirds_in_percent_become_exact_thirds(pages: Client, use_case: UseCase) -> None:
    changes = {"control_weight": "33.3", "t0-weight": "33.3", "treatment": ["0", "1"], "t1-weight": "33.3"}
    changes |= {"t1-key": "aggressive", "t1-choice": "preset:aggressive", "t1-checkpoint": ""}
    pages.post(NEW, typed(**changes))
    weights = [variant.weight for variant in Experiment.objects.get().variants.all()]
    assert weights == pytest.approx([1 / 3] * 3, abs=1e-12)


def edit(pages: Client, button: str, value: str = "1", **changes: Any) -> Any:
    """Press one of the buttons that change the form only."""
    data = typed(**changes)
    del data["save"]
    response = pages.post(NEW, {**data, button: value})
    assert response.status_code == 200
    assert not Experiment.objects.exists()
    return response.context["draft"]


def test_add_appends_the_next_preset_and_keeps_even_weights_even(pages: Client, use_case: UseCase) -> None:
    draft = edit(pages, "add")
    assert [form["key"].value() for form in draft.treatments] == ["conservative", "aggressive"]
    assert draft.total_weight == "100"
    assert draft.design["control_weight"].value() == "33.34"


def test_add_leaves_chosen_weights_alone(pages: Client, use_case: UseCase) -> None:
    draft = edit(pages, "add", control_weight="80", **{"t0-weight": "20"})
    assert draft.design["control_weight"].value() == "80"
    assert draft.treatments[1]["weight"].value() == ""


def test_remove_takes_away_the_treatment_it_names(pages: Client, use_case: UseCase) -> None:
    changes = {
        "treatment": ["0", "1"],
        "t1-key": "second",
        "t1-choice": "policy:token_budget",
        "t1-weight": "9",
    }
    draft = edit(pages, "remove", "0", **changes, **{"t1-token_budget-max_thinking_tokens": "77"})
    (left,) = draft.treatments
    assert left["key"].value() == "second"
    assert left.parameter_forms["token_budget"]["max_thinking_tokens"].value() == "77"


def test_last_treatment_cannot_be_removed(pages: Client, use_case: UseCase) -> None:
    assert len(edit(pages, "remove", "0").treatments) == 1


def test_no_more_than_eight_treatments(pages: Client, use_case: UseCase) -> None:
    assert len(edit(pages, "add", treatment=[str(n) for n in range(8)]).treatments) == 8


def test_another_use_case_brings_its_margin(pages: Client, use_case: UseCase) -> None:
    other = make_use_case("other")
    UseCase.objects.filter(pk=other.pk).update(margin=0.01)
    draft = edit(pages, "refresh", use_case="other", min_saving="33")
    assert draft.design["margin"].value() == "1"
    assert draft.design["min_saving"].value() == "33"  # typed by hand: stays


@pytest.mark.parametrize("arms", range(2, 10))
def test_even_weights_add_up(arms: int) -> None:
    assert sum(map(float, even_weights(arms))) == pytest.approx(100, abs=1e-9)


def test_form_refuses_other_methods(pages: Client) -> None:
    assert pages.put(NEW).status_code == 405
