"""How often and how patiently a download is tried again. Torch-free."""

from collections.abc import Callable

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

ATTEMPTS = 4
LONGEST_WAIT_SECONDS = 20


def retrying(is_transient: Callable[[BaseException], bool]) -> Retrying:
    """Return a caller that tries again after 1, 2, 4 … seconds while `is_transient(error)`, then raises the error."""
    return Retrying(
        retry=retry_if_exception(is_transient),
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_exponential_jitter(max=LONGEST_WAIT_SECONDS),
        reraise=True,
    )
