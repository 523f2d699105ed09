"""Typed errors: every failure has a reason from one closed list.

The reason decides what the runner does (quarantine, retry or stop) and is the label that
the ledger, the quarantine and the metrics carry. Add a reason here, nowhere else.
"""

from __future__ import annotations

from enum import StrEnum

EXIT_OK = 0
EXIT_BAD_INPUT = 65  # bad input or configuration: do not retry (sysexits EX_DATAERR)
EXIT_TRANSIENT = 75  # try again later (sysexits EX_TEMPFAIL)


class Reason(StrEnum):
    """Why a scene, an input or a command failed."""

    # the input
    UNREADABLE = "unreadable"  # permission, symlink loop, vanished
    EMPTY = "empty"  # no bytes, no frames, zero length
    NOT_VIDEO = "not_video"  # not a media file, or without a picture stream
    TRUNCATED = "truncated"  # ends in the middle and the configuration asks for whole files
    TOO_LARGE = "too_large"  # dimensions or counts beyond the configured bounds
    UNSUPPORTED = "unsupported"  # a codec or layout that cannot be decoded
    DUPLICATE_NAME = "duplicate_name"  # two inputs would write to one scene
    # the user's choice
    BAD_CONFIG = "bad_config"
    MISSING_MODEL = "missing_model"  # package or weights of a backend are not there
    # the tree
    MISSING_ARTIFACT = "missing_artifact"
    INVALID_ARTIFACT = "invalid_artifact"
    # the machine
    OUT_OF_MEMORY = "out_of_memory"
    STORAGE = "storage"  # I/O error of the disk or the object store
    SERVICE = "service"  # a service we call (VLM) failed or timed out
    BAD_ANSWER = "bad_answer"  # a model's answer cannot be used, also when asked again
    CRASHED = "crashed"  # the process died while it worked on the scene
    # ours
    INTERNAL = "internal"

    @property
    def transient(self) -> bool:
        """True if the same work may succeed on another try without any change."""
        return self in _TRANSIENT


_TRANSIENT = frozenset({Reason.STORAGE, Reason.SERVICE, Reason.OUT_OF_MEMORY})


class DynamicVerseError(Exception):
    """An expected failure: one line that says what is wrong and what to do next."""

    reason: Reason = Reason.INTERNAL

    def __init__(self, message: str, reason: Reason | None = None) -> None:
        super().__init__(message)
        if reason is not None:
            self.reason = reason


class InputError(DynamicVerseError):
    """A video or frame folder that cannot be used."""

    reason = Reason.NOT_VIDEO


class ConfigError(DynamicVerseError):
    """A configuration or command line that cannot be used."""

    reason = Reason.BAD_CONFIG


class ArtifactError(DynamicVerseError):
    """A file of the output tree that is missing, truncated, oversized or malformed."""

    reason = Reason.INVALID_ARTIFACT


class MissingModelError(DynamicVerseError):
    """A backend whose package or weights are not installed."""

    reason = Reason.MISSING_MODEL


class StorageError(DynamicVerseError):
    """The disk or object store failed; worth another try."""

    reason = Reason.STORAGE


class ServiceError(DynamicVerseError):
    """A service that we call failed or stayed away; worth another try."""

    reason = Reason.SERVICE


class AnswerError(DynamicVerseError):
    """A model refused a question, or answered what cannot be used."""

    reason = Reason.BAD_ANSWER


def reason_of(error: BaseException) -> Reason:
    """Map any exception to a reason."""
    if isinstance(error, DynamicVerseError):
        return error.reason
    if isinstance(error, MemoryError):
        return Reason.OUT_OF_MEMORY
    if isinstance(error, PermissionError):
        return Reason.UNREADABLE
    if isinstance(error, FileNotFoundError):
        return Reason.MISSING_ARTIFACT
    if isinstance(error, OSError):
        return Reason.STORAGE
    if (
        type(error).__name__ == "OutOfMemoryError"
    ):  # torch.OutOfMemoryError, without importing torch
        return Reason.OUT_OF_MEMORY
    return Reason.INTERNAL
