"""The task that looks at an experiment."""

from __future__ import annotations

import pytest

from workers.tasks import looks


def test_a_look_that_fails_is_tried_again_with_growing_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, pauses = [], []
    retry = looks.take_look.retry

    def failing(experiment_id: int) -> None:
        calls.append(experiment_id)
        raise RuntimeError("the database went away")

    def watched(**options: object) -> object:
        pauses.append(options["countdown"])
        return retry(**options)

    monkeypatch.setattr(looks, "look", failing)
    monkeypatch.setattr(looks.take_look, "retry", watched)
    result = looks.take_look.apply(args=[7])
    assert isinstance(result.result, RuntimeError)
    assert calls == [7] * 4
    assert pauses[:3] == [looks.FIRST_PAUSE_SECONDS * 2**i for i in range(3)]
