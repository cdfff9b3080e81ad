"""D-Wave's cloud: what its client raises, as one line and what to do. The token never appears in either."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from qcompress.errors import BackendError, QCompressError
from qcompress.solvers.cloud_log import without_token

__all__ = ["LOCAL", "patient", "redacted", "token", "translated"]

LOCAL = "--backend profile works here, without an account"
_SETUP = f"create one at cloud.dwavesys.com, then `dwave setup` or set DWAVE_API_TOKEN; {LOCAL}"
PAUSES_S = (1.0, 4.0)
"""Between attempts where the server fails; after the last one the error stands."""

T = TypeVar("T")
_LONGEST = 240  # characters of a foreign message that are shown


@contextmanager
def translated(backend: str) -> Iterator[None]:
    """Whatever D-Wave's packages raise in the block becomes a BackendError of `backend`; ours and Ctrl-C pass.

    From the first block on, their logs leave the token out, too.
    """
    without_token()
    try:
        yield
    except (QCompressError, KeyboardInterrupt):
        raise
    except ImportError as error:
        raise BackendError(f"backend {backend} needs dwave-system: {error}", "pip install dwave-system") from None
    except Exception as error:
        what, hint = _explain(error)
        raise BackendError(f"backend {backend}: {redacted(what)}", hint) from None  # the cause may hold the token


def patient(ask: Callable[[], T]) -> T:
    """What `ask` returns; asked again, after a pause, where D-Wave's server failed (a status of 500 or above)."""
    from dwave.cloud.exceptions import SolverError  # type: ignore[import-untyped]

    for pause_s in PAUSES_S:
        try:
            return ask()
        except SolverError as error:
            if not 500 <= (getattr(error, "error_code", None) or 0) <= 599:
                raise
            time.sleep(pause_s)
    return ask()


def token() -> str | None:
    """The API token that the client would use, from the environment or D-Wave's configuration file; None where there is none.

    Never to be shown: see `redacted`. Raises what the client raises for a damaged file.
    """
    from dwave.cloud.config import load_config  # type: ignore[import-untyped]

    return load_config().get("token") or None


def redacted(text: str) -> str:
    """The first line of `text`, cut to a readable length, without the token."""
    line = next(iter(text.strip().splitlines()), "")
    for secret in _secrets():
        line = line.replace(secret, "***")
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."


def _secrets() -> list[str]:
    found = [os.environ.get("DWAVE_API_TOKEN", "")]
    with suppress(Exception):  # a file that cannot be read holds no token that was used
        found.append(token() or "")
    return [secret for secret in found if secret]


def _explain(error: Exception) -> tuple[str, str]:
    """What happened, and the next step."""
    from dwave.cloud import exceptions as cloud  # type: ignore[import-untyped]
    from dwave.cloud.config.exceptions import ConfigFileError  # type: ignore[import-untyped]

    if isinstance(error, cloud.ProblemUploadError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    text = str(error) or type(error).__name__
    if "token not defined" in text:
        return "no D-Wave API token", _SETUP
    if isinstance(error, ConfigFileError):
        return (
            f"D-Wave's configuration file cannot be used: {text}",
            "repair or remove it (`dwave config ls`), or `dwave setup`",
        )
    if isinstance(error, cloud.SolverAuthenticationError) or getattr(error, "error_code", None) == 401:
        return "D-Wave refused the API token", f"`dwave setup` with the token of your account at cloud.dwavesys.com; {LOCAL}"
    if isinstance(error, cloud.SolverOfflineError):
        return f"the solver is offline: {text}", f"try again later, or another --solver (`dwave solvers --list`); {LOCAL}"
    if isinstance(error, cloud.SolverNotFoundError):
        return "no such solver is online for this account", f"`dwave solvers --list` shows what is; {LOCAL}"
    if _mentions(text, "quota", "insufficient", "exhausted", "remaining solver access"):
        return f"the account's solver time is used up: {text}", f"see the usage at cloud.dwavesys.com, or wait; {LOCAL}"
    if getattr(error, "error_code", None) == 429 or _mentions(text, "too many", "429"):
        return f"D-Wave takes no more problems for now: {text}", "wait a minute and run the same command again"
    if isinstance(error, cloud.CanceledFutureError):
        return "the problem was cancelled", "run the same command again"
    if isinstance(error, (cloud.InvalidAPIResponseError, ValueError, KeyError, TypeError, IndexError)) and not isinstance(
        error, cloud.SolverError
    ):
        return f"the answer cannot be read: {type(error).__name__}: {text}", "run the same command again"
    if _is_network(error):
        return f"D-Wave cannot be reached: {_reason(error)}", f"check the network and proxy (`dwave ping`); {LOCAL}"
    return f"failed: {type(error).__name__}: {text}", f"run the same command again, or see status.dwavesys.com; {LOCAL}"


def _is_network(error: Exception) -> bool:
    from dwave.cloud.api.exceptions import RequestTimeout  # type: ignore[import-untyped]
    from dwave.cloud.exceptions import PollingTimeout, SolverError, Timeout
    from requests.exceptions import RequestException

    if isinstance(error, SolverError):
        return False
    return isinstance(error, (RequestTimeout, PollingTimeout, Timeout, ConnectionError, TimeoutError, RequestException))


def _reason(error: Exception) -> str:
    """The reason in few words: what urllib3 wraps is long."""
    text = str(error)
    for needle, words in (
        ("Connection refused", "connection refused"),
        ("Name or service not known", "the name of the server is not known"),
        ("Failed to resolve", "the name of the server is not known"),
        ("timed out", "no answer in time"),
        ("IncompleteRead", "the answer broke off"),
        ("reset by peer", "the connection was reset"),
        ("closed connection", "the connection was closed"),
    ):
        if needle in text:
            return words
    return text or type(error).__name__


def _mentions(text: str, *words: str) -> bool:
    return any(word in text.lower() for word in words)
