"""HTTP error responses, in the format that the clients of each API expect."""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exception_handlers import request_validation_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from gateway import metrics
from services.common.errors import LightTtsError, quoted
from services.common.telemetry import current_request_id

API = "http"
OPENAI_PREFIX = "/v1/"
ELEVENLABS_SPEECH = "/v1/text-to-speech/"
ELEVENLABS_PREFIXES = (ELEVENLABS_SPEECH, "/v1/voices")
MAX_PROBLEMS = 10
"""Most faults of one form in its answer: a body of a few MB can have a million."""


class MessageError(BaseModel):
    """An error in LightTTS's format: what is wrong and what to do."""

    message: str


class OpenAIErrorDetail(BaseModel):
    message: str
    type: str = Field(examples=["invalid_request_error"])
    param: str | None = Field(description="The invalid field of the request.")
    code: str | None


class OpenAIError(BaseModel):
    """An error in OpenAI's format."""

    error: OpenAIErrorDetail


class ElevenLabsErrorDetail(BaseModel):
    status: str = Field(examples=["voice_not_found"])
    message: str


class ElevenLabsError(BaseModel):
    """An error in ElevenLabs' format."""

    detail: ElevenLabsErrorDetail


_DESCRIPTIONS = {
    400: "The request is invalid; the message says what to change.",
    401: "An API key is needed, or this one is not valid.",
    404: "There is no such voice or style, or this gateway does not offer the function.",
    408: "The request took too long to arrive.",
    413: "The request is too large.",
    429: "Too many requests or streams; `Retry-After` gives the seconds to wait.",
    500: "Internal error; the server's log has the details.",
    501: "The workers are of an earlier version that lacks what this needs.",
    503: "No worker is available; `Retry-After` gives the seconds to wait.",
}
Responses = dict[int | str, dict[str, Any]]


def _described(model: type[BaseModel]) -> Responses:
    """Describe the errors of a route. One names the model and the others refer to it.

    The framework builds a validator for each model that a route names; one for each status took most of a gateway's
    start.
    """
    named = {"model": model}
    reference = {"content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}}
    return {
        status: (named if status == HTTPStatus.BAD_REQUEST else reference) | {"description": description}
        for status, description in _DESCRIPTIONS.items()
    }


MESSAGE_ERRORS = _described(MessageError)
OPENAI_ERRORS = _described(OpenAIError)
ELEVENLABS_ERRORS = _described(ElevenLabsError)


def add_error_handlers(app: FastAPI) -> None:
    """Answer every error of `app` in the format of the API that raised it."""
    app.add_exception_handler(LightTtsError, _refuse)
    app.add_exception_handler(HTTPException, _refuse_request)
    app.add_exception_handler(RequestValidationError, _refuse_form)
    app.add_exception_handler(Exception, _fail)


def error_response(request: Request, error: LightTtsError) -> Response:
    """Return the response to a request that failed with `error`."""
    metrics.ERRORS.labels(API, error.reason).inc()
    headers = {} if error.retry_after is None else {"retry-after": str(math.ceil(error.retry_after))}
    if error.http_status == HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    return _answer(request, error.http_status, error.message, error.field, error.reason.lower(), headers)


async def _refuse(request: Request, error: Exception) -> Response:
    if not isinstance(error, LightTtsError):
        raise error
    return error_response(request, error)


async def _refuse_request(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    metrics.ERRORS.labels(API, f"HTTP_{error.status_code}").inc()
    status, headers = HTTPStatus(error.status_code), dict(error.headers or {})
    message = str(error.detail)
    if message == status.phrase:  # of the framework, which says no more
        message = _ROUTE_ERRORS.get(status, message).format(method=request.method, path=quoted(request.url.path))
    return _answer(request, status, message, None, status.name.lower(), headers)


async def _refuse_form(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    metrics.ERRORS.labels(API, "INVALID_FORM").inc()
    if not request.url.path.startswith(OPENAI_PREFIX):
        # Leave the input out: values that JSON cannot hold (NaN, files) would make the response fail.
        first = error.errors()[:MAX_PROBLEMS]
        plain = [{key: problem[key] for key in ("type", "loc", "msg")} for problem in first]
        return await request_validation_exception_handler(request, RequestValidationError(plain))
    field, message = _first_problem(request, error)
    return _answer(request, 400, message, field, "invalid_input", {})


def _first_problem(request: Request, error: RequestValidationError) -> tuple[str | None, str]:
    """Return the field that is wrong, None for the whole body, and what is wrong with it."""
    problem = error.errors()[0]
    is_json = request.headers.get("content-type", "").startswith("application/json")
    if problem["type"] == "json_invalid":
        return None, f"the body is not JSON: {problem['ctx']['error']}, at character {problem['loc'][-1] + 1}"
    if problem["loc"] == ("body",):
        return None, "the body is not a JSON object; send one, with the header Content-Type: application/json"
    if problem["type"] == "missing" and problem["loc"][0] == "body" and is_json and not isinstance(error.body, dict):
        return None, "the body is JSON, but a form is needed; send its fields as multipart/form-data"
    # `loc` begins with the part of the request, such as "query". After the field's name, it names the variants of the
    # field's type, in the framework's terms.
    field = str(problem["loc"][1])
    message = "send a file, not a text" if "Expected UploadFile" in problem["msg"] else problem["msg"]
    return field, f"{field}: {message}"


async def _fail(request: Request, error: Exception) -> Response:
    metrics.ERRORS.labels(API, LightTtsError.reason).inc()
    message = f"internal error; the server's log has the details under request {current_request_id()}"
    return _answer(request, 500, message, None, "internal", {})


def _answer(
    request: Request, status: int, message: str, field: str | None, reason: str, headers: dict[str, str]
) -> Response:
    shape: BaseModel = MessageError(message=message)
    if request.url.path.startswith(ELEVENLABS_PREFIXES):
        shape = ElevenLabsError(detail=ElevenLabsErrorDetail(status=elevenlabs_status(reason, field), message=message))
    elif request.url.path.startswith(OPENAI_PREFIX):
        kind = _OPENAI_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
        shape = OpenAIError(error=OpenAIErrorDetail(message=message, type=kind, param=field, code=reason))
    return JSONResponse(shape.model_dump(), status, headers)


def elevenlabs_status(reason: str, field: str | None) -> str:
    """Return ElevenLabs' word for an error. `reason`: in lower case. `field`: by its name in that API."""
    return _ELEVENLABS_STATUS.get((reason, field), _ELEVENLABS_STATUS.get((reason, None), reason))


_ELEVENLABS_STATUS = {
    ("not_found", "voice_id"): "voice_not_found",
    ("not_found", "model_id"): "model_not_found",
    ("unauthenticated", None): "invalid_api_key",
    ("quota_exceeded", None): "too_many_concurrent_requests",
    ("overloaded", None): "system_busy",
    ("timed_out", None): "input_timeout_exceeded",
}
_OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_ROUTE_ERRORS = {
    HTTPStatus.NOT_FOUND: "nothing is served at {path}; docs/api.md lists the paths, such as /v1/audio/speech",
    HTTPStatus.METHOD_NOT_ALLOWED: "{path} does not take {method}; docs/api.md lists the paths and their methods",
}
