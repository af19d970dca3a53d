"""Changes of a project by the body of a PUT or PATCH, or by host code."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from projkit.errors import FieldError
from projkit.http.body import body_error, validate
from projkit.http.strict_json import json_pointer
from projkit.projects.rendering import as_document
from projkit.projects.schemas import READ_ONLY, ProjectInput
from projkit.projects.service import Change
from projkit.projects.statements import ProjectRow


def replacing(raw: Any) -> Change:
    """Return the change by a body that is the whole new content.

    Raises:
        ValidationFailedError: the body is invalid; the change raises it if a read-only field differs.
    """
    content, echoed = _split(raw)
    replacement = validate(ProjectInput, content)

    def change(row: ProjectRow) -> ProjectInput:
        _check_read_only(echoed, as_document(row) if echoed else {})
        return replacement

    return change


def merging(raw: Any) -> Change:
    """Return the change by a body that keeps the members that it omits.

    Raises:
        ValidationFailedError: it has unknown members; the change raises it if another one is invalid.
    """
    content, echoed = _split(raw)
    _check_names(content)
    return changing(lambda current: {**current, **content}, read_only=echoed)


def patching(raw: Any) -> Change:
    """Return the change by a JSON merge patch.

    Raises:
        ValidationFailedError: it has unknown members; the change raises it if the result is invalid.
    """
    patch, echoed = _split(raw)
    _check_names(patch)
    return changing(lambda current: _merge_patch(current, patch), read_only=echoed)


def changing(merge: Callable[[dict[str, Any]], Any], *, read_only: Mapping[str, Any]) -> Change:
    """Return the change to what ``merge`` makes of the writable fields, if the ``read_only`` ones stay as they are."""

    def change(row: ProjectRow) -> ProjectInput:
        document = as_document(row)
        _check_read_only(read_only, document)
        return validate(ProjectInput, merge({name: document[name] for name in ProjectInput.model_fields}))

    return change


def _merge_patch(target: Any, patch: Any) -> Any:
    """Apply a merge patch to ``target`` (RFC 7396 §2)."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merge_patch(merged.get(name), value)
    return merged


def _check_names(content: Mapping[str, Any]) -> None:
    for name in content:
        if name not in ProjectInput.model_fields:
            raise body_error(FieldError("extra_forbidden", "Unknown field", pointer=json_pointer(name)))


def _split(raw: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split a body into the writable fields and the read-only ones, which clients may send back."""
    if not isinstance(raw, dict):
        raise body_error(FieldError("model_type", "Must be an object", pointer=""))
    content = {name: value for name, value in raw.items() if name not in READ_ONLY}
    return content, {name: value for name, value in raw.items() if name in READ_ONLY}


def _check_read_only(echoed: Mapping[str, Any], document: Mapping[str, Any]) -> None:
    wrong = [
        FieldError(
            "read_only",
            "This field is read-only and differs from its current value",
            pointer=json_pointer(name),
        )
        for name, value in echoed.items()
        if not _same(value, document[name])
    ]
    if wrong:
        raise body_error(*wrong)


def _same(sent: Any, current: Any) -> bool:
    if type(sent) is not type(current):
        return False
    if sent == current or not isinstance(sent, str):
        return bool(sent == current)
    try:  # the same time in another notation
        return datetime.fromisoformat(sent) == datetime.fromisoformat(current)
    except (TypeError, ValueError):
        return False
