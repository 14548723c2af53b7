"""The section on identity and manners: the three rates that the task Identity measures, a column for each model."""

from collections.abc import Mapping
from typing import Any

from flows.report.layout import NOTHING, Section

TASK = "Identity"
RATES = {  # what scores.json calls it: what the reader does
    "identity_accuracy": "Identity accuracy",
    "decline_rate": "Decline rate",
    "false_decline_rate": "False-decline rate",
}


def manners_section(evaluations: Mapping[str, Mapping[str, Any]], titles: Mapping[str, str]) -> Section:
    """Return the section; `titles` is {model: what the reader calls it}."""
    found = {model: scores["identity"] for model, scores in evaluations.items() if scores.get("identity")}
    rows = [
        [title, *(rate_cell(rates.get(name)) for rates in found.values())]
        for name, title in RATES.items()
        if any(name in rates for rates in found.values())
    ]
    note = (
        "Of held-out questions, with 95 % intervals: how often the model says rightly who it is, how often it declines "
        "what it should, and how often it does not answer what is harmless. They are no part of ChatCORE."
    )
    columns = ("rate", *(titles[model] for model in found))
    return Section("Identity and manners", note=note, columns=columns, rows=rows)


def rate_cell(rate: Mapping[str, Any] | None) -> str:
    """Return a rate as the report writes it.

    >>> rate_cell({"value": 0.95, "low": 0.9, "high": 0.972, "n": 80}), rate_cell(None)
    ('95.0 % (90.0 to 97.2) of 80', '–')
    """
    if rate is None:
        return NOTHING
    return f"{100 * rate['value']:.1f} % ({100 * rate['low']:.1f} to {100 * rate['high']:.1f}) of {rate['n']:,}"
