"""What a new user does first, done by a script in a real browser: start a run, watch it, cancel, retry, compare.

Slow: a node starts, and the pipeline runs twice. $NANOCHAT_SCREENSHOTS names a folder that keeps the pictures; those
in docs/screenshots were made so.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.chromium import NAMES, Screenshots, find_chromium, new_tab
from tests.browser.mlflow_page import MlflowPage
from tests.browser.prefect_page import PrefectPage
from tests.faults.live_node import LiveNode, long_spec

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
LONG = {"pretrain.steps": 3000, "pretrain.sample_every": 3000}  # for long enough to be cancelled
SPEC = long_spec(**LONG, **{"pretrain.validation_every": 100, "pretrain.runtime.log_every": 25})
SCORE = "pretrain/val_bpb_last"
RUN_SECONDS = 600.0  # for a whole run of the small pipeline on a busy machine
REUSED = [
    ("tokenizer", "Cached"),
    ("task_data", "Cached"),
    ("download", "Cached"),
]  # the newest first, as the UI has it


@pytest.fixture(scope="module")
def chromium() -> str:
    executable = find_chromium()
    if executable is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is on the PATH")
    return executable


@pytest.fixture(scope="module")
def node(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveNode]:
    """A node that is up, on which somebody has run the small demo once, with a depth of 1."""
    node = LiveNode(tmp_path_factory.mktemp("node") / "base")
    try:
        printed = node.up()
        assert node.prefect_url in printed and node.mlflow_url in printed
        node.wait_for_state(node.start("nanochat/demo", SPEC), "Completed", RUN_SECONDS)
        yield node
    finally:
        node.down()
    assert not node.processes(), [process.cmdline() for process in node.processes()]


@pytest.fixture
def page(chromium: str, node: LiveNode) -> Iterator[Page]:
    with new_tab(chromium, allowed={"127.0.0.1"}) as page:
        yield page


@pytest.fixture
def screenshots(tmp_path: Path) -> Screenshots:
    return Screenshots(Path(os.environ.get("NANOCHAT_SCREENSHOTS") or tmp_path / "screenshots"))


def test_a_new_user_runs_cancels_retries_and_compares(node: LiveNode, page: Page, screenshots: Screenshots) -> None:
    prefect, mlflow = PrefectPage(page, node.prefect_url), MlflowPage(page, node.mlflow_url)
    start_deeper_run(prefect, screenshots)
    watch_pretraining(prefect, screenshots)
    cancel(prefect, node, screenshots)
    retry(prefect, node, screenshots)
    compare(mlflow, screenshots)


def start_deeper_run(prefect: PrefectPage, screenshots: Screenshots) -> None:
    """Start the demo from its form, with a depth of 3."""
    prefect.open()
    assert prefect.list_deployments("demo") == ["demo"]
    screenshots.take(prefect.page, "deployment")
    prefect.open_form("demo")
    prefect.paste_parameters({"spec": SPEC.model_dump(mode="json")})
    depth = prefect.number("Depth")
    expect(depth).to_have_value("1")
    depth.fill("3")
    depth.evaluate("element => element.scrollIntoView({block: 'center'})")
    screenshots.take(prefect.page, "form")
    prefect.submit()


def watch_pretraining(prefect: PrefectPage, screenshots: Screenshots) -> None:
    """See how far pretraining is, its losses, and what its ranks print; all of it moves by itself."""
    prefect.wait_for_state("Running", seconds=120)
    expect(prefect.heading).to_contain_text("demo-d3")
    progress = prefect.artifact("pretrain-progress", seconds=120)
    expect(progress).to_contain_text("left", timeout=120_000)
    seen = progress.inner_text()
    expect(progress).not_to_have_text(seen, use_inner_text=True)
    prefect.show_newest_logs("step 300 of 3000", seconds=180)
    screenshots.take(prefect.page, "logs")
    prefect.artifact("pretrain-progress").click()
    expect(prefect.page.get_by_text("Progress:")).to_be_visible()
    screenshots.take(prefect.page, "progress")
    prefect.page.go_back()
    prefect.artifact("pretrain-losses").click()
    expect(prefect.page.get_by_role("row").nth(5)).to_be_visible()
    screenshots.take(prefect.page, "losses")
    prefect.page.go_back()
    prefect.show_graph()
    screenshots.take(prefect.page, "running")


def cancel(prefect: PrefectPage, node: LiveNode, screenshots: Screenshots) -> None:
    """Cancel the run: its processes end, and what they had learned is on the disk."""
    assert node.ranks()
    prefect.press("Cancel", confirm="Confirm")
    prefect.wait_for_state("Cancelled", seconds=120)
    prefect.show_graph()
    screenshots.take(prefect.page, "cancelled")
    node.wait_until_nothing_trains()
    measured, saved = node.steps()[-1], int(node.checkpoints()[-1].removeprefix("step_"))
    assert measured <= saved < SPEC.pretrain.steps, f"step {measured} was measured, step {saved} is saved"
    assert prefect.task_states() == [("pretrain", "Crashed"), *REUSED]


def retry(prefect: PrefectPage, node: LiveNode, screenshots: Screenshots) -> None:
    """Retry the run: what was finished is reused, and pretraining goes on from its checkpoint."""
    saved = int(node.checkpoints()[-1].removeprefix("step_"))
    prefect.press("Retry", confirm="Retry")
    prefect.wait_for_state("Running", seconds=120)
    node.wait_until_in_the_middle()
    assert prefect.task_states()[:4] == [("pretrain", "Running"), *REUSED]
    screenshots.take(prefect.page, "retried")
    prefect.wait_for_state("Completed", seconds=RUN_SECONDS)
    steps = [step for step in node.steps() if step > saved]
    assert node.attempts() == 2 and steps[0] <= saved + SPEC.pretrain.runtime.log_every
    prefect.page.reload()
    prefect.show_graph()
    screenshots.take(prefect.page, "completed")
    prefect.artifact("report").click()
    assert prefect.show_picture() > 0
    screenshots.take(prefect.page, "report")


def compare(mlflow: MlflowPage, screenshots: Screenshots) -> None:
    """See in MLflow what the deeper run has in common with the earlier one, and what not."""
    mlflow.open_runs("1")
    mlflow.close_assistant()
    mlflow.choose_columns("pretrain.model.depth", SCORE, instead_of=("Dataset", "Source", "Models"))
    mlflow.select("demo-d1", "demo-d3")
    screenshots.take(mlflow.page, "mlflow-runs")
    mlflow.compare()
    differing = {name: values for name, values in mlflow.parameters().items() if not name.startswith("derived.")}
    assert differing == {"pretrain.model.depth": ["1", "3"]}
    screenshots.take(mlflow.page, "mlflow-parameters")
    first, second = map(float, mlflow.metric(SCORE))
    assert first != second and first > 0 and second > 0
    screenshots.take(mlflow.page, "mlflow-metrics")
    mlflow.open_runs("1", search="tags.stage = 'pretrain'", view="CHART")
    colors = mlflow.show_curves("train/loss", "demo-d1", "demo-d3")
    assert len(colors) == 2
    screenshots.take(mlflow.page, "mlflow-curves")
