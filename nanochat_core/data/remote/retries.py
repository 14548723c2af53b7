"""How often and how patiently a download is tried again. Torch-free."""

from collections.abc import Callable

from tenacity import RetryCallState, Retrying, retry_if_exception, wait_exponential_jitter

ATTEMPTS = 4
LONGEST_WAIT_SECONDS = 20
LONGEST_ASKED_SECONDS = 300  # a server that asks for more (Retry-After) is reported instead of waited for


def never_asked(_error: BaseException) -> float | None:
    return None


def retrying(
    is_transient: Callable[[BaseException], bool], asked_seconds: Callable[[BaseException], float | None] = never_asked
) -> Retrying:
    """Return a caller that tries again after 1, 2, 4 … seconds while `is_transient(error)`, then raises the error.

    `asked_seconds(error)` is how long the server asks to wait: it is waited for at least, or, where it is more than
    LONGEST_ASKED_SECONDS, not at all.
    """
    back_off = wait_exponential_jitter(max=LONGEST_WAIT_SECONDS)

    def wait(state: RetryCallState) -> float:
        return max(back_off(state), asked_seconds(_error_of(state)) or 0)

    def is_too_long(state: RetryCallState) -> bool:
        return (asked_seconds(_error_of(state)) or 0) > LONGEST_ASKED_SECONDS

    return Retrying(
        retry=retry_if_exception(is_transient),
        stop=lambda state: state.attempt_number >= ATTEMPTS or is_too_long(state),
        wait=wait,
        reraise=True,
    )


def _error_of(state: RetryCallState) -> BaseException:
    """Return what the attempt raised; tenacity asks only after one that did."""
    error = state.outcome.exception() if state.outcome else None
    assert error is not None
    return error
