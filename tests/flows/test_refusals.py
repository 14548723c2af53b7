"""What a run that was started from the UI says of a spec that cannot work: before any stage, all of it at once."""

from typing import Any

import pytest
from prefect.exceptions import ParameterTypeError

from flows.finetune import sft
from flows.pipeline import pipeline
from nanochat_core.recipes import recipe
from nanochat_core.specs import with_changes
from tests.flows.conftest import FakeStages


@pytest.mark.parametrize("flow", [pipeline, sft], ids=["pipeline", "stage"])
def test_the_runs_state_lists_every_bad_combination_and_no_stage_starts(flow: Any, fake_stages: FakeStages) -> None:
    changes = {"pretrain.model.n_head": 3, "sft.conversations.validation_rows": 5, "evaluate.chat_tasks": ["Fact"]}
    state = flow(with_changes(recipe("demo"), changes), return_state=True)
    first, *lines = state.message.splitlines()
    assert first.endswith("3 problems:")
    assert [line.split(":")[0] for line in lines] == [
        "- pretrain.model.n_head",
        "- sft.conversations.validation_rows",
        "- evaluate.chat_tasks",
    ]
    assert fake_stages.ran() == []


def test_values_that_no_field_takes_are_listed_with_their_fields(fake_stages: FakeStages) -> None:
    data = recipe("demo").model_dump(mode="json")
    data["pretrain"]["model"]["depth"] = 0
    data["launch"]["device"] = "gpu"
    data["sft"]["bach_rows"] = 3
    with pytest.raises(ParameterTypeError) as refused:
        pipeline(data)
    assert str(refused.value).splitlines()[1:] == [
        " - spec.pretrain.model.depth: Input should be greater than or equal to 1",
        " - spec.sft.bach_rows: Extra inputs are not permitted",
        " - spec.launch.device: Input should be 'cuda', 'mps' or 'cpu'",
    ]
    assert fake_stages.ran() == []
