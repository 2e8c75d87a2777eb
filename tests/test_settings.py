"""Settings: what the environment may say, and what a bad value is told."""

from pathlib import Path

import pytest

from pavane.settings import Settings, SettingsError, described, examples_folder, without_password


def test_nothing_set_gives_the_defaults() -> None:
    settings = Settings.from_environment({})
    assert settings.redis_url is None and settings.database_url is None
    assert (settings.prefix, settings.handlers, settings.host) == ("", (), "127.0.0.1")


def test_every_variable_is_read() -> None:
    settings = Settings.from_environment(
        {
            "REDIS_URL": "redis://:secret@h:1/0",
            "PAVANE_DATA": "some/where",
            "PAVANE_HANDLERS": "a.b, c ,",
            "PAVANE_PREFIX": "{s3}:",
            "PAVANE_RETENTION_S": "5",
            "PAVANE_LIMITS": "workflow_nodes=7, prompt_bytes=8",
            "OTHER": "ignored",
        }
    )
    assert settings.redis_url is not None and settings.redis_url.get_secret_value() == "redis://:secret@h:1/0"
    assert settings.data == Path("some/where")
    assert settings.handlers == ("a.b", "c")
    assert (settings.prefix, settings.retention_s) == ("{s3}:", 5)
    assert (settings.limits.workflow_nodes, settings.limits.prompt_bytes) == (7, 8)
    assert settings.limits.workflow_bytes == Settings.from_environment({}).limits.workflow_bytes


def test_an_empty_variable_counts_as_unset() -> None:
    assert Settings.from_environment({"REDIS_URL": "", "PAVANE_PORT": ""}) == Settings.from_environment({})


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PAVANE_PORT", "many"),
        ("PAVANE_PORT", "70000"),
        ("PAVANE_RETENTION_S", "-1"),
        ("PAVANE_PREFIX", "a b"),
        ("PAVANE_LOG_LEVEL", "LOUD"),
        ("PAVANE_LIMITS", "no_such=1"),
        ("PAVANE_LIMITS", "workflow_nodes=-1"),
        ("PAVANE_LIMITS", "workflow_nodes"),
    ],
)
def test_a_bad_value_is_refused_and_the_variable_named(variable: str, value: str) -> None:
    with pytest.raises(SettingsError, match=variable):
        Settings.from_environment({variable: value})


def test_options_go_on_top_and_none_means_not_given() -> None:
    settings = Settings.from_environment({"PAVANE_PORT": "1"})
    assert settings.with_options(port=None).port == 1
    assert settings.with_options(port=0).port == 0
    assert settings.with_options(handlers="a,b").handlers == ("a", "b")
    with pytest.raises(SettingsError, match="port"):
        settings.with_options(port=-1)


def test_no_credential_shows_where_settings_are_printed() -> None:
    settings = Settings.from_environment({"REDIS_URL": "redis://:secret@h", "PAVANE_API_KEYS": "secret,secret"})
    assert "secret" not in f"{settings!r} {settings}"
    assert without_password("postgresql://me:secret@h:5/d?x=1") == "postgresql://me:***@h:5/d?x=1"
    assert without_password("unix://:secret@/some/path") == "unix://:***@/some/path"
    assert without_password("redis://h:6379/0") == "redis://h:6379/0"


def test_every_setting_is_described() -> None:
    rows = described()
    assert {"REDIS_URL", "DATABASE_URL", "OLLAMA_HOST", "PAVANE_DATA"} <= {name for name, _, _ in rows}
    assert all(description for _, _, description in rows)
    assert not any("Undefined" in default for _, default, _ in rows)


def test_the_examples_are_found() -> None:
    assert examples_folder().is_dir()
