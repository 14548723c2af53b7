from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace

import pytest

from nanochat_core.data.remote.transfer import asked_seconds, is_transient, reason_of


class Refusal(Exception):
    """What a client raises for a refused request, as far as it is looked at."""

    def __init__(self, status: int, **headers: str) -> None:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        self.response = SimpleNamespace(status_code=status, headers=names)


@pytest.mark.parametrize(
    ("refusal", "seconds"),
    [
        (Refusal(429, Retry_After="12"), 12),
        (Refusal(503, Retry_After=" 3 "), 3),
        (Refusal(429, RateLimit='"resolvers";r=0;t=55'), 55),
        (Refusal(429, Retry_After="2", RateLimit='"resolvers";r=0;t=55'), 2),
        (Refusal(500, RateLimit='"resolvers";r=7;t=55'), None),
        (Refusal(429), None),
        (Refusal(429, Retry_After="soon"), None),
        (Refusal(429, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"), 0),
        (ConnectionError("broken"), None),
    ],
)
def test_what_a_server_asks_for_is_understood(refusal: Exception, seconds: float | None) -> None:
    assert asked_seconds(refusal) == seconds


def test_a_date_to_come_back_at_is_understood() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    assert 80 < asked_seconds(Refusal(503, Retry_After=soon)) <= 90


@pytest.mark.parametrize(("status", "expected"), [(408, True), (429, True), (500, True), (404, False), (401, False)])
def test_only_what_may_pass_is_tried_again(status: int, expected: bool) -> None:
    assert is_transient(Refusal(status)) == expected
    assert reason_of(Refusal(status, Retry_After="7")) == f"status {status}, asks to wait 7 s"
