"""What each number on the pages means: one sentence each, shown on hover and in the list of definitions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Definition(NamedTuple):
    """A term as the pages write it, and what it means."""

    term: str
    meaning: str


DEFINITIONS: Mapping[str, Definition] = {
    "anytime": Definition(
        "Anytime-valid interval",
        "An interval that covers the true value at all looks together with the stated probability "
        "(for large samples). You may look as often as you like and stop when you like; a classical "
        "interval may be looked at once. The price is that it is wider.",
    ),
    "fixed": Definition(
        "Fixed-sample interval",
        "A classical interval for one arm at this look alone. It describes the arm; the verdict does not use it.",
    ),
    "arm": Definition(
        "Arm",
        "One variant: a stopping policy plus a checkpoint. The control thinks in full; the others are"
        " compared with it.",
    ),
    "units": Definition(
        "Units",
        "Units (conversations, users or requests) first admitted to this arm, counted when they were "
        "admitted, whatever became of them.",
    ),
    "completions": Definition(
        "Completions",
        "Admitted requests that ended: answered, error, timeout or cancelled.",
    ),
    "labelled": Definition(
        "Labelled",
        "Completions whose answer could be compared with a reference answer. Only these count for EM.",
    ),
    "em": Definition(
        "EM",
        "Exact match: the share of labelled completions whose final answer equals the reference. A "
        "request that failed counts as a wrong answer.",
    ),
    "em_difference": Definition(
        "EM difference",
        "EM of this arm minus EM of the control, in percentage points. Negative: the arm answers "
        "fewer questions correctly.",
    ),
    "decoded_tokens": Definition(
        "Decoded tokens",
        "Mean tokens decoded per completion: thinking, answer, probe and overrun tokens together. "
        "What early exit costs is in it.",
    ),
    "change": Definition(
        "Token change",
        "Decoded tokens of this arm relative to the control's, in percent. Negative: tokens are saved.",
    ),
    "without_probes": Definition(
        "Without probes",
        "The same without the tokens that trial answers cost. For comparison with published figures; "
        "the verdict does not use it.",
    ),
    "thinking": Definition(
        "Thinking tokens",
        "Decoded inside the thinking phase, up to the decision to stop.",
    ),
    "answer": Definition(
        "Answer tokens",
        "Decoded after the thinking, for the reader.",
    ),
    "probe": Definition(
        "Probe tokens",
        "Decoded by trial answers, which the policy reads to decide. Nobody else sees them.",
    ),
    "overrun": Definition(
        "Overrun tokens",
        "Decoded past the decision before the stop took effect, forced tokens included.",
    ),
    "verdict": Definition(
        "Verdict",
        "What the declared rule says at this look: ship, revert, keep running or inconclusive.",
    ),
    "margin": Definition(
        "Margin",
        "The EM loss that is too much, in points. Shipping needs a loss this large excluded.",
    ),
    "min_saving": Definition(
        "Minimum saving",
        "The saving of decoded tokens that is worth shipping. Shipping needs at least this much to be shown.",
    ),
    "alpha": Definition(
        "Alpha",
        "The probability of shipping a treatment that should not be shipped, over all looks, treatments and phases. "
        "The first phase tests at three quarters of it, each further phase at a quarter of the one before.",
    ),
    "weight": Definition(
        "Weight",
        "The share of the experiment's units that the arm gets.",
    ),
    "srm": Definition(
        "Sample ratio",
        "Whether the arms got the shares of units that were declared. A p-value below the bound means"
        " that assignment or recording is broken; the test may be repeated at every look.",
    ),
    "label_rate": Definition(
        "Label rates",
        "Whether the arms' answers are labelled equally often. Where they are not, EM compares different questions.",
    ),
    "late_labels": Definition(
        "Late labels",
        "Labels that came after their request had been counted without one. Where right and wrong answers are not "
        "labelled equally soon, looks before them saw the wrong EM: the label window has to be longer.",
    ),
    "corrected_labels": Definition(
        "Corrected labels",
        "Labels that say something else than when they were first counted. The estimates follow a correction; the "
        "exact test keeps what it was told first.",
    ),
    "enforcement": Definition(
        "Enforcement",
        "How often the assigned policy was not in effect. Too often, and the arm is not what it says it is.",
    ),
    "unfinished": Definition(
        "Unfinished",
        "Requests that ended in an error, a timeout or a cancellation. They stay in their arm.",
    ),
    "snapshot": Definition(
        "Snapshot",
        "The stored result of one look at all data up to that time.",
    ),
    "phase": Definition(
        "Phase",
        "A stretch of the experiment in which nothing that matters changed. Phases are never pooled.",
    ),
}
