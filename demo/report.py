"""What the demo prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from demo.errors import DemoError
from demo.measured import Observed, compare_with_published, read_measurements
from demo.scenario import MODEL
from demo.seed import Seeded, SeededExperiment
from experiments.models import Admission, Completion
from experiments.services.looks import newest_snapshot
from experiments.statistics.comparison import Comparison, EMContrast, TokenContrast
from experiments.statistics.results import Estimate, NotEstimable
from experiments.statistics.snapshot import ArmSummary, Snapshot

_COLOURS = {"ship": "bold green", "revert": "bold red"}


def check_admitted_equals_stored(demo: SeededExperiment, sent: frozenset[str]) -> None:
    """Raise DemoError unless the stored completions are exactly the admitted and answered requests."""
    admitted = set(Admission.objects.filter(phase__experiment=demo.experiment).values_list("pk", flat=True))
    stored = set(Completion.objects.filter(pk__in=admitted | sent).values_list("pk", flat=True))
    if not sent == admitted == stored:
        raise DemoError(f"{len(sent)} requests were answered, {len(admitted)} admitted and {len(stored)} stored")


def print_results(console: Console, demo: SeededExperiment) -> None:
    """The verdict table of one experiment, from its newest snapshot."""
    row = newest_snapshot(demo.experiment)
    assert row is not None
    print_snapshot(console, demo.scenario.name, Snapshot.from_dict(row.data))


def print_snapshot(console: Console, title: str, snapshot: Snapshot) -> None:
    """The verdict table of a snapshot."""
    design = snapshot.design
    console.print(
        f"\n[bold]{title}[/bold]: {snapshot.total_units} units, margin {_points(design.margin)}, "
        f"{_saving(design.min_saving)}"
    )
    # 80 columns hold it.
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("arm", "n", "EM, %", "difference", "tokens", "change, %", "change*", "verdict"):
        table.add_column(name, justify="left" if name in ("arm", "verdict") else "right", no_wrap=True)
    comparisons = {comparison.treatment: comparison for comparison in snapshot.comparisons}
    decisions = {decision.treatment: decision for decision in snapshot.verdict.treatments}
    for arm in snapshot.arms:
        decision = decisions.get(arm.key)
        name = decision.decision.value if decision else ""
        verdict = f"[{_COLOURS.get(name, 'bold yellow')}]{name.replace('_', ' ')}[/]" if name else "[dim]control[/dim]"
        table.add_row(*_cells(arm, comparisons.get(arm.key)), verdict)
    console.print(table)
    for decision in snapshot.verdict.treatments:
        console.print(f"  [bold]{decision.treatment}[/bold]: " + " ".join(r.message for r in decision.reasons))
    console.print(
        f"  [dim]Below each figure its {design.level:.0%} interval: anytime-valid for difference and change.\n"
        "  * marked: without probe tokens; decides nothing.\n  "
        f"{_health(snapshot)}[/dim]"
    )


def check_published(console: Console, demos: Sequence[SeededExperiment]) -> None:
    """Say whether EM and tokens of all arms agree with the table of demo/README.md (two-sided, 1 % over all).

    Raises:
        DemoError: they do not.
    """
    agreement = compare_with_published([arm for demo in demos for arm in _observed(demo)], read_measurements())
    said = (
        f"{agreement.tests} two-sided tests against the table in demo/README.md: smallest p {agreement.smallest_p:.2g} "
        f"({agreement.where}; Bonferroni)"
    )
    if not agreement.holds():
        raise DemoError(f"the arms do not agree with their published figures: {said}")
    console.print(f"\n  [green]agrees[/green] {said}")


def _observed(demo: SeededExperiment) -> Iterator[Observed]:
    row = newest_snapshot(demo.experiment)
    assert row is not None
    steps = {variant.key: variant.checkpoint.step for variant in demo.experiment.variants.select_related("checkpoint")}
    for arm in Snapshot.from_dict(row.data).arms:
        if isinstance(arm.em, NotEstimable) or isinstance(arm.decoded_tokens, NotEstimable):
            continue
        # The last checkpoint under full thinking is one row of the table, whatever the arm is called.
        name = "full" if arm.is_control else arm.key
        correct = round(arm.em.value * arm.em.observations)
        tokens = arm.decoded_tokens
        yield Observed(name, steps[arm.key] or 0, arm.em.observations, correct, tokens.value, tokens.se)


def print_access(console: Console, address: str, seeded: Seeded) -> None:
    """Where to look, and what to try."""
    console.print(f"\nResults   {address}/   login [bold]{seeded.user}[/bold], password [bold]{seeded.password}[/bold]")
    for demo in seeded.experiments:
        console.print(f"          {address}/experiments/{demo.experiment.pk}/  {demo.scenario.name}")
    token = seeded.experiments[0].token
    problem = seeded.experiments[0].scenario.problems()[0]
    console.print(f"API key   [bold]{token}[/bold]\nTry")
    body = f'{{"model": "{MODEL}", "messages": [{{"role": "user", "content": "{problem.prompt}"}}]}}'
    command = (
        f"curl {address}/v1/chat/completions -H 'Authorization: Bearer {token}' "
        f"-H 'Content-Type: application/json' -d '{body}'"
    )
    console.print(command, soft_wrap=True, markup=False)


def _cells(arm: ArmSummary, comparison: Comparison | None) -> tuple[str, ...]:
    cells = (arm.key, str(arm.completions), _estimate(arm.em, 100))
    if comparison is None:
        return (*cells, "", _estimate(arm.decoded_tokens, 1, 0), "", "")
    return (
        *cells,
        _contrast(comparison.em, "difference"),
        _estimate(arm.decoded_tokens, 1, 0),
        _contrast(comparison.decoded_tokens, "relative_change"),
        _contrast(comparison.tokens_without_probes, "relative_change").partition("\n")[0],
    )


def _contrast(value: EMContrast | TokenContrast | NotEstimable, name: str) -> str:
    return _estimate(value if isinstance(value, NotEstimable) else getattr(value, name), 100)


def _estimate(value: Estimate | NotEstimable, scale: float, digits: int = 1) -> str:
    """The estimate, and below it its interval."""
    if isinstance(value, NotEstimable):
        return "not estimable"
    if isinstance(value.interval, NotEstimable):
        return f"{value.value * scale:.{digits}f}\n[dim]no interval[/dim]"
    low, high = value.interval.lower * scale, value.interval.upper * scale
    return f"{value.value * scale:.{digits}f}\n[dim]{low:.{digits}f}..{high:.{digits}f}[/dim]"


def _saving(minimum: float) -> str:
    return f"saving wanted {minimum:.0%}" if minimum >= 0 else f"at most {-minimum:.0%} more tokens allowed"


def _points(fraction: float) -> str:
    return f"{100 * fraction:g} points"


def _health(snapshot: Snapshot) -> str:
    return " ".join(check.message for check in snapshot.health.checks)
