"""The list of experiments."""

from __future__ import annotations

from django.test import Client
from pytest_django import DjangoAssertNumQueries

from experiments.models import Experiment, UseCase
from experiments.services import experiments as service
from tests.web.conftest import StoreLook, make_experiment, make_use_case


def test_empty_list_leads_to_the_first_experiment(pages: Client) -> None:
    text = pages.get("/").content.decode()
    assert "No experiment yet" in text
    assert 'href="/experiments/new/"' in text


def test_list_shows_verdict_difference_and_change(pages: Client, running: Experiment, store_look: StoreLook) -> None:
    store_look(running)
    text = pages.get("/").content.decode()
    assert "Ship conservative" in text
    assert "Running" in text
    assert "+0.0 points" in text  # 588 of 600 correct in both arms
    assert "\N{MINUS SIGN}44.4%" in text  # 150 / 270 - 1


def test_list_says_that_a_look_is_missing(pages: Client, running: Experiment) -> None:
    assert "no look yet" in pages.get("/").content.decode()


def test_list_shows_only_the_newest_phase(pages: Client, running: Experiment, store_look: StoreLook) -> None:
    store_look(running)
    service.resume("ada", service.pause("ada", running))
    assert "no look yet" in pages.get("/").content.decode()


def test_list_shows_the_conclusion_of_a_stopped_experiment(pages: Client, running: Experiment) -> None:
    service.stop("ada", running, "reverted")
    assert "Stopped: reverted" in pages.get("/").content.decode()


def test_names_are_escaped(pages: Client, use_case: UseCase) -> None:
    make_experiment(use_case, "<script>alert(1)</script>")
    assert "<script>alert" not in pages.get("/").content.decode()


def test_number_of_queries_does_not_grow_with_the_list(
    pages: Client, store_look: StoreLook, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    for number in range(8):
        store_look(service.start("ada", make_experiment(make_use_case(f"route-{number}"))))
    # Session, person, experiments, variants, snapshots.
    with django_assert_max_num_queries(6):
        pages.get("/")


def test_snapshot_of_another_version_is_no_verdict(pages: Client, running: Experiment, store_look: StoreLook) -> None:
    stored = store_look(running)
    stored.data = {"schema_version": 0}
    stored.save()
    assert "no look yet" in pages.get("/").content.decode()
