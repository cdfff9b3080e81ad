"""D-Wave's client writes its token to its own log at DEBUG and below: here it is taken out, before any handler sees it."""

from __future__ import annotations

import logging
import re

__all__ = ["without_token"]

_LOGGERS = ("dwave.cloud.api.client", "dwave.cloud.client.base", "dwave.cloud.config.loaders")
_TOKEN = re.compile(r"(token['\"]?\s*[:=]\s*b?['\"])[^'\"]+", re.IGNORECASE)


class _Redaction(logging.Filter):
    """Lets every record pass, without what stands behind the word token."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = _TOKEN.sub(r"\1***", record.getMessage()), ()  # as it is now: the client changes its values
        return True


_REDACTION = _Redaction()


def without_token() -> None:
    """From now on the client's loggers leave the token out. Calling it again changes nothing.

    A filter of a logger is not asked about records of the loggers below it, so each that writes the token has its own.
    """
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_REDACTION)
