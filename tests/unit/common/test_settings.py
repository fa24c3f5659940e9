"""Settings: the sources of values, invalid values, and the completeness of the help."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import ValidationError

from services.common.settings import ModelServiceSettings, ServiceSettings, Settings, renamed_value
from services.encode.settings import EncodeSettings
from services.llm.settings import LlmSettings

CLASSES: list[type[Settings]] = [ServiceSettings, ModelServiceSettings, EncodeSettings, LlmSettings]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LlmSettings.model_fields:
        monkeypatch.delenv(f"LIGHTTTS_{name.upper()}", raising=False)


def test_flags_override_the_environment_which_overrides_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTTTS_HOST", "0.0.0.0")  # noqa: S104 - never listened on
    monkeypatch.setenv("LIGHTTTS_LEAD_SECONDS", "7")
    monkeypatch.setenv("LIGHTTTS_SOMETHING_ELSE", "the environment holds other services' settings too")
    settings = LlmSettings.from_command_line(["--lead-seconds", "9.5", "--log-level", "debug"])
    assert (settings.lead_seconds, settings.host, settings.log_level) == (9.5, "0.0.0.0", "debug")  # noqa: S104
    assert settings.port == 50052
    assert settings.worker_name


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--prot", "1"], "unrecognized arguments: --prot 1"),
        (["--port", "99999"], "--port (LIGHTTTS_PORT): Input should be less than or equal to 65535, got '99999'"),
        (["--lead-seconds", "0"], "--lead-seconds (LIGHTTTS_LEAD_SECONDS): Input should be greater than 0"),
        (["--llm-backend", "magic"], "--llm-backend"),
    ],
)
def test_wrong_flags_end_the_process_with_a_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        LlmSettings.from_command_line(arguments)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


def test_a_wrong_variable_ends_the_process_with_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LIGHTTTS_MAX_RUNNING", "many")
    with pytest.raises(SystemExit) as ended:
        LlmSettings.from_command_line([])
    assert ended.value.code == 2
    assert "LIGHTTTS_MAX_RUNNING" in capsys.readouterr().err


@pytest.mark.parametrize("settings", CLASSES)
def test_help_lists_every_field_with_its_text(settings: type[Settings], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        settings.from_command_line(["--help"])
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for name, field in settings.model_fields.items():
        assert f"--{name.replace('_', '-')} " in text
        assert field.description, name
        assert " ".join(field.description.split()) in text, name


def test_settings_do_not_change() -> None:
    settings = ServiceSettings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.port = 1  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        ServiceSettings(prot=1)  # type: ignore[call-arg]


class RenamedSettings(Settings):
    """A setting with a value that was renamed."""

    backend: Annotated[Literal["auto", "new"], renamed_value("old", "new")] = "auto"
    """The backend."""


def test_a_renamed_value_is_accepted_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert RenamedSettings.from_command_line(["--backend", "new"]).backend == "new"
    assert not caplog.messages
    monkeypatch.setenv("LIGHTTTS_BACKEND", "old")
    assert RenamedSettings.from_command_line([]).backend == "new"
    assert "LIGHTTTS_BACKEND=old is deprecated" in caplog.text
    with pytest.raises(ValidationError, match="'auto' or 'new'"):
        RenamedSettings(backend="other")
