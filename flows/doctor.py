"""`nanochat doctor`: is this machine fit for it? Each check says what it found and, where that is bad, what to do."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from flows import doctor_machine, doctor_network, doctor_sandbox, doctor_serving
from flows.doctor_finding import Check, Finding, State

STYLES: dict[State, str] = {"ok": "green", "warning": "yellow", "problem": "red"}


def examine(base: Path) -> list[Finding]:
    """Return what all checks find, for runs in the folder `base`. Never raises: a check that fails is a problem."""
    places = (doctor_machine, doctor_sandbox, doctor_network, doctor_serving)
    checks: Sequence[Check] = [check for place in places for check in place.CHECKS]
    return [finding for check in checks for finding in findings_of(check, base)]


def findings_of(check: Check, base: Path) -> list[Finding]:
    """Return what a check finds; where it breaks down itself, that is what is found."""
    found: list[Finding] = []
    try:
        for finding in check(base):
            found.append(finding)
    except Exception as error:
        name = check.__name__.replace("_", " ")
        words = f"the check itself failed: {type(error).__name__}: {error}"
        found.append(Finding(name, "problem", words, "look at what it names; the other checks are not affected"))
    return found


def is_fit(findings: Sequence[Finding]) -> bool:
    """Tell whether nothing found is a problem."""
    return all(finding.state != "problem" for finding in findings)


def as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    return {"is_fit": is_fit(findings), "findings": [asdict(finding) for finding in findings]}


def table_of(findings: Sequence[Finding]) -> Table:
    """Return a row for each finding."""
    table = Table("check", "", "found", "what to do", title="This machine", title_justify="left")
    table.columns[0].no_wrap = table.columns[1].no_wrap = True
    for finding in findings:
        state = f"[{STYLES[finding.state]}]{finding.state}[/]"
        table.add_row(finding.check, state, plain(finding.found), plain(finding.remedy))
    return table


def plain(text: str) -> str:
    """Return text in which rich sees no markup."""
    return text.replace("[", r"\[")
