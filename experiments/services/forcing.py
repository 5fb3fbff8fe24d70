"""Forced variants: a tester asks for an arm of a running experiment by a signed header, and counts nowhere."""

from __future__ import annotations

import hmac
import re
import time
from dataclasses import dataclass

from experiments.models import Experiment
from experiments.services import audit
from experiments.services.errors import InvalidInput, WrongState
from experiments.services.secrets import forced_variant_signature

HEADER = "x-curtail-force-variant"
MAX_SECONDS = 30 * 86_400
_FORM = re.compile(r"(\d{1,18}):([-a-zA-Z0-9_]{1,40}):(\d{1,12}):([0-9a-f]{64})", re.ASCII)


class BadForm(ValueError):
    """The header is not of its form."""


class NotSigned(ValueError):
    """The header is of its form, but it was not made here, or its time is over."""


@dataclass(frozen=True, slots=True)
class ForcedVariant:
    """A valid header's wish."""

    experiment_id: int
    variant: str


def read_header(value: str, now: float) -> ForcedVariant:
    """The wish in a header; needs no I/O.

    Args:
        value: ``<experiment id>:<variant key>:<expires>:<signature>``; expires is in seconds since the epoch.
        now: seconds since the epoch.

    Raises:
        BadForm: it is not of this form.
        NotSigned: the signature is wrong, or it has expired.
    """
    found = _FORM.fullmatch(value)
    if found is None:
        raise BadForm(f"{HEADER} must be <experiment id>:<variant key>:<expires>:<signature>, got {value[:120]!r}")
    experiment_id, variant, expires = int(found[1]), found[2], int(found[3])
    if not hmac.compare_digest(forced_variant_signature(experiment_id, variant, expires), found[4]):
        raise NotSigned(f"{HEADER} has a wrong signature; have a new one made")
    if expires <= now:
        raise NotSigned(f"{HEADER} must be used before it expires, {expires}, and it is {int(now)} now")
    return ForcedVariant(experiment_id, variant)


@dataclass(frozen=True, slots=True)
class IssuedHeader:
    """A header to be sent along until it expires, in seconds since the epoch."""

    value: str
    expires: int


def issue_header(actor: str, experiment: Experiment, variant: str, seconds: int) -> IssuedHeader:
    """Let a tester ask for a variant for some time; an audit event says who let them.

    Raises:
        WrongState: the experiment has ended.
        InvalidInput: it has no such variant, or the time is out of bounds.
    """
    if experiment.state == Experiment.State.STOPPED:
        raise WrongState(f"experiment {experiment.name!r} is stopped; only one that runs can serve a variant")
    keys = [row.key for row in experiment.variants.all()]
    if variant not in keys:
        raise InvalidInput(f"variant must be one of {', '.join(keys)}, got {variant!r}", "variant")
    if not 1 <= seconds <= MAX_SECONDS:
        raise InvalidInput(f"seconds must be from 1 to {MAX_SECONDS}, got {seconds}", "seconds")
    expires = int(time.time()) + seconds
    audit.record(actor, "let force a variant", experiment, after={"variant": variant, "expires": expires})
    signature = forced_variant_signature(experiment.pk, variant, expires)
    return IssuedHeader(f"{experiment.pk}:{variant}:{expires}:{signature}", expires)
