"""The page of one experiment."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from django.test import Client
from django.urls import reverse
from pytest_django import DjangoAssertNumQueries

from experiments.models import Experiment
from experiments.services import experiments as service
from tests.web.conftest import StoreLook


def show(pages: Client, experiment: Experiment) -> str:
    response = pages.get(reverse("experiment", args=[experiment.pk]))
    assert response.status_code == 200
    return response.content.decode()


def test_verdict_and_reasons_are_in_words(pages: Client, running: Experiment, store_look: StoreLook) -> None:
    store_look(running)
    text = show(pages, running)
    assert "Ship conservative" in text
    assert "a loss of 5.0 points (the margin) is excluded" in text
    assert "more than the margin of 5.0 points" in text  # aggressive: 80 against 98 percent correct


def test_table_has_a_row_per_arm_in_declared_order(pages: Client, running: Experiment, store_look: StoreLook) -> None:
    store_look(running)
    response = pages.get(reverse("experiment", args=[running.pk]))
    rows = response.context["report"].arms
    assert [row.key for row in rows] == ["full", "conservative", "aggressive"]
    assert [row.verdict for row in rows] == ["", "Ship", "Revert"]
    assert rows[0].em.text == "98.0%"
    assert rows[1].change.text == "\N{MINUS SIGN}44.4%"
    assert rows[2].em_difference.text == "\N{MINUS SIGN}18.0 points"
    assert [kind.text for kind in rows[1].kinds] == ["142.0", "8.0", "0.0", "0.0"]


def test_intervals_say_what_they_are(pages: Client, running: Experiment, store_look: StoreLook) -> None:
    store_look(running)
    rows = pages.get(reverse("experiment", args=[running.pk])).context["report"].arms
    assert rows[1].em_difference.level == "anytime-valid 95% interval"
    assert rows[1].change.level == "anytime-valid 95% interval"
    assert rows[1].em.level == "fixed-sample 95% interval"


def test_missing_estimate_shows_its_reason(pages: Client, running: Experiment, store_look: StoreLook) -> None:
    store_look(running, labelled=False)
    text = show(pages, running)
    assert "not estimable: arm &#x27;full&#x27; has no labelled completions" in text
    assert "not estimable yet" in text  # in the plot
    assert re.search(r"\b(nan|None|inf)\b", text) is None


def test_missing_interval_shows_its_reason(pages: Client, running: Experiment, store_look: StoreLook) -> None:
    stored = store_look(running)
    change = stored.data["comparisons"][0]["decoded_tokens"]["relative_change"]
    change["interval"] = {"not_estimable": "too few units to bound it"}
    stored.save()
    assert "no interval yet: too few units to bound it" in show(pages, running)


def test_arms_without_any_completion_show_reasons(pages: Client, running: Experiment, store_look: StoreLook) -> None:
    stored = store_look(running)
    for arm in stored.data["arms"]:
        none = {"not_estimable": "no completion"}
        arm |= {"completions": 0, "labelled_completions": 0, "token_means": None}
        arm |= {"em": none, "decoded_tokens": none, "tokens_without_probes": none}
    stored.save()
    assert "not estimable: no completions" in show(pages, running)


def test_forest_plot_is_well_formed_and_described(pages: Client, running: Experiment, store_look: StoreLook) -> None:
    store_look(running)
    plots = re.findall(r"<svg class=\"forest\".*?</svg>", show(pages, running), re.DOTALL)
    assert len(plots) == 2
    for plot in plots:
        root = ElementTree.fromstring(plot)
        assert root.get("role") == "img"
        described = root.findtext("desc") or ""
        assert "conservative" in described
        assert "control" in described
        assert len(root.findall("g")) == 3
    assert "margin \N{MINUS SIGN}5.0" in plots[0]
    assert "minimum saving \N{MINUS SIGN}20.0%" in plots[1]


def test_health_counts_unfinished_requests(pages: Client, running: Experiment, store_look: StoreLook) -> None:
    store_look(running)
    text = show(pages, running)
    assert "errors 3, timeouts 6, cancelled 0" in text  # 1 and 2 in each of three arms
    assert "Sample ratio" in text
    assert "Label rates" in text
    assert "Late labels" in text
    assert "Corrected labels" in text
    assert "Enforcement" in text


def test_settings_are_in_words_and_keep_the_salt(pages: Client, draft: Experiment) -> None:
    text = show(pages, draft)
    assert "an EM loss of 5.0 points is too much" in text
    assert "at least 20% fewer decoded tokens" in text
    assert "Confidence: threshold 0.95, aggregate geometric, patience 2 probes" in text
    assert draft.salt not in text


def test_history_names_who_and_what(pages: Client, running: Experiment) -> None:
    text = show(pages, running)
    assert "draft → running" in text
    assert "ada" in text


def test_draft_offers_the_start(pages: Client, draft: Experiment) -> None:
    text = show(pages, draft)
    assert "nothing is served by it yet" in text
    assert reverse("start", args=[draft.pk]) in text


def test_running_experiment_without_a_look_says_so(pages: Client, running: Experiment) -> None:
    text = show(pages, running)
    assert "No look yet" in text
    assert "has 0 units so far" in text


def test_new_phase_does_not_show_the_old_result(pages: Client, running: Experiment, store_look: StoreLook) -> None:
    store_look(running)
    service.resume("ada", service.pause("ada", running))
    assert "No look yet" in show(pages, running)


def test_snapshot_of_another_version_is_said(pages: Client, running: Experiment, store_look: StoreLook) -> None:
    stored = store_look(running)
    stored.data["schema_version"] = 0
    stored.save()
    assert "written by another version" in show(pages, running)


def test_no_inline_script_or_style(pages: Client, running: Experiment, store_look: StoreLook) -> None:
    store_look(running)
    text = show(pages, running)
    assert re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", text) is None


def test_number_of_queries_is_bounded(
    pages: Client,
    running: Experiment,
    store_look: StoreLook,
    django_assert_max_num_queries: DjangoAssertNumQueries,
) -> None:
    for _ in range(5):
        store_look(running)
    with django_assert_max_num_queries(9):
        show(pages, running)


def test_newest_tells_the_snapshot(pages: Client, running: Experiment, store_look: StoreLook) -> None:
    address = reverse("newest", args=[running.pk])
    assert pages.get(address).json() == {"snapshot": 0}
    stored = store_look(running)
    assert pages.get(address).json() == {"snapshot": stored.pk}


def test_unknown_experiment_is_not_found(pages: Client) -> None:
    assert pages.get(reverse("experiment", args=[404])).status_code == 404
    assert pages.get(reverse("newest", args=[404])).status_code == 404


def test_page_is_only_read(pages: Client, running: Experiment) -> None:
    assert pages.post(reverse("experiment", args=[running.pk])).status_code == 405


def test_guardrails_are_shown_with_their_bounds(pages: Client, running: Experiment, store_look: StoreLook) -> None:
    stored = store_look(running)
    result = {
        "metric": "empty",
        "treatment": "aggressive",
        "action": "revert",
        "value": 0.2,
        "control_value": 0.01,
        "excess": 0.19,
        "lower_bound": 0.15,
        "bound": 0.02,
        "alpha": 0.0125,
        "breached": True,
        "observations": 900,
        "method": "asymptotic_confidence_sequence",
        "message": "Empty answers of aggressive: 20.00% against 1.00% of the control.",
    }
    stored.data["guardrails"] = [result]
    stored.save()
    text = show(pages, running)
    assert "Empty, aggressive" in text
    assert "+19.0 points, at most 2.0 points" in text
    assert "Breached" in text


def test_what_is_declared_is_shown(pages: Client, running: Experiment) -> None:
    text = show(pages, running)
    assert "empty at most 2.0 points above the control" in text
    assert "yes: looks revert arms and end it at its maximum" in text


def test_a_reverted_arm_is_marked_and_not_offered_for_shipping(
    pages: Client, running: Experiment, store_look: StoreLook
) -> None:
    running.variants.filter(key="aggressive").update(reverted_at=running.started_at)
    store_look(running)
    response = pages.get(reverse("experiment", args=[running.pk]))
    assert [choice.key for choice in response.context["choices"]] == ["conservative"]
    assert "<small>reverted</small>" in response.content.decode()


def test_the_results_are_one_file(pages: Client, running: Experiment, store_look: StoreLook) -> None:
    store_look(running)
    response = pages.get(reverse("report_file", args=[running.pk]))
    text = response.content.decode()
    assert response["content-disposition"] == f'attachment; filename="experiment-{running.pk}.html"'
    assert "Ship conservative" in text
    # Nothing is fetched: no script, no style sheet, no image, no link.
    assert re.search(r"<script|<link|<img|<a |src=|@import|url\(", text) is None
    assert "<svg" in text


def test_without_a_look_there_is_no_file(pages: Client, running: Experiment) -> None:
    assert pages.get(reverse("report_file", args=[running.pk])).status_code == 404


def test_alpha_is_shown_as_declared_and_as_the_phase_uses_it(pages: Client, running: Experiment) -> None:
    service.resume("ada", service.pause("ada", running))
    assert "5.0%; 0.938% in phase 2" in show(pages, running)


def test_what_an_earlier_phase_has_shown_stays_on_the_page(
    pages: Client, running: Experiment, store_look: StoreLook
) -> None:
    running.variants.filter(key="conservative").update(ship_snapshot=store_look(running))
    assert "has shown that" not in show(pages, running)
    service.resume("ada", service.pause("ada", running))
    text = show(pages, running)
    assert 'Phase 1 has shown that <span class="key">conservative</span> may be shipped' in text
    assert "Phase 1 has shown that it may be shipped." in text


def test_the_settings_say_what_is_kept_of_texts(pages: Client, draft: Experiment) -> None:
    draft.use_case.retention = "hash"
    draft.use_case.save()
    assert "<dd>keyed hashes only</dd>" in pages.get(f"/experiments/{draft.pk}/").content.decode()
