"""Doctor's check of the sandbox in which evaluation runs code that a model wrote."""

import json
from collections.abc import Iterator
from pathlib import Path

from flows import launch
from flows.doctor_finding import Check, Finding
from nanochat_core.errors import NanochatError

MODULE = "tasks_eval.sandbox"
SECONDS = 60.0
REMEDY = (
    "HumanEval and the tool `python` want Linux 5.13 or newer with Landlock and seccomp, or bubblewrap installed; "
    "--allow-unsafe-code does without"
)


def sandbox(base: Path) -> Iterator[Finding]:
    """How far can programs be kept apart here?"""
    try:
        report = json.loads(launch.ask(MODULE, seconds=SECONDS))
    except NanochatError as error:
        yield Finding("sandbox", "warning", str(error), "HumanEval and the tool `python` cannot be used until it runs")
        return
    troubles = "; ".join(f"no {level}: {trouble}" for level, trouble in report["troubles"].items())
    found = f"{report['level']} ({troubles})" if troubles else report["level"]
    if report["is_sandbox"]:
        yield Finding("sandbox", "ok", found)
    elif report["is_permitted"]:
        yield Finding(
            "sandbox", "warning", f"{found}; NANOCHAT_ALLOW_UNSAFE_CODE=1: model code runs unconfined", REMEDY
        )
    else:
        yield Finding("sandbox", "warning", found, REMEDY)


CHECKS: tuple[Check, ...] = (sandbox,)
