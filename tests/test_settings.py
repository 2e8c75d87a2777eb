"""Settings: what the environment may say, and what a bad value is told."""

import json
from pathlib import Path
from typing import Any

import pytest

from agent_runner.tools.mcp_server import McpServer
from history.connection_options import ConnectionOptions
from history.store_options import StoreOptions
from pavane.services.retention import check_history_days
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
        ("PAVANE_HISTORY_DAYS", "0"),
        ("PAVANE_ARTIFACT_STORE", "https://bucket/sekret"),
        ("PAVANE_ARTIFACT_STORE", "s3://key:sekret@bucket"),
        ("PAVANE_PREFIX", "a b"),
        ("PAVANE_LOG_LEVEL", "LOUD"),
        ("PAVANE_LIMITS", "no_such=1"),
        ("PAVANE_LIMITS", "workflow_nodes=-1"),
        ("PAVANE_LIMITS", "workflow_nodes"),
        ("PAVANE_HTTP_HOSTS", "https://sekret@example.org/x"),
        ("PAVANE_HTTP_HOSTS", "example.org:70000"),
        ("PAVANE_CREDENTIALS", "sekret"),
        ("PAVANE_CREDENTIALS", '["sekret"]'),
        ("PAVANE_CREDENTIALS", '{"shop": {"value": "sekret"}}'),
        ("PAVANE_CREDENTIALS", '{"shop": {"value": "sekret", "hosts": []}}'),
        ("PAVANE_CREDENTIALS", '{"shop": {"value": "sekret", "hosts": ["a b"]}}'),
        ("PAVANE_CREDENTIALS", '{"shop": {"value": "sekret\\n", "hosts": ["example.org"]}}'),
        ("PAVANE_CREDENTIALS", '{"shop": {"value": "sekret", "hosts": ["example.org"], "header": "X: y"}}'),
        ("PAVANE_CREDENTIALS", '{"a shop": {"value": "sekret", "hosts": ["example.org"]}}'),
    ],
)
def test_a_bad_value_is_refused_and_the_variable_named(variable: str, value: str) -> None:
    with pytest.raises(SettingsError, match=variable) as refused:
        Settings.from_environment({variable: value})
    assert "sekret" not in str(refused.value)


def test_options_go_on_top_and_none_means_not_given() -> None:
    settings = Settings.from_environment({"PAVANE_PORT": "1"})
    assert settings.with_options(port=None).port == 1
    assert settings.with_options(port=0).port == 0
    assert settings.with_options(handlers="a,b").handlers == ("a", "b")
    with pytest.raises(SettingsError, match="port"):
        settings.with_options(port=-1)


def test_credentials_stand_in_the_variable_or_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "credentials.toml"
    file.write_text('[shop]\nvalue = "Bearer sekret"\nhosts = ["example.org"]\n')
    for given in (str(file), '{"shop": {"value": "Bearer sekret", "hosts": ["example.org"]}}'):
        settings = Settings.from_environment({"PAVANE_CREDENTIALS": given, "PAVANE_HTTP_HOSTS": "a.org, *.b.org:8000"})
        shop = settings.credentials["shop"]
        assert (shop.header, shop.value.get_secret_value(), shop.hosts) == (
            "Authorization", "Bearer sekret", ("example.org",)
        )  # fmt: skip
        assert settings.http_hosts == ("a.org", "*.b.org:8000")
        assert "sekret" not in f"{settings!r}"


def test_no_credential_shows_where_settings_are_printed() -> None:
    settings = Settings.from_environment({"REDIS_URL": "redis://:secret@h", "PAVANE_API_KEYS": "secret,secret"})
    assert "secret" not in f"{settings!r} {settings}"
    assert without_password("postgresql://me:secret@h:5/d?x=1") == "postgresql://me:***@h:5/d?x=1"
    assert without_password("unix://:secret@/some/path") == "unix://:***@/some/path"
    assert without_password("redis://h:6379/0") == "redis://h:6379/0"


def test_mcp_servers_see_what_is_named_and_nothing_else(tmp_path: Path) -> None:
    given = {
        "files": {"command": ["serve", "x"], "env": ["TOKEN"]},
        "far": {"url": "https://h", "headers": {"A": "KEY"}},
    }
    environment = {"TOKEN": "secret", "KEY": "secret", "OTHER": "o"}
    (tmp_path / "mcp.toml").write_text('[files]\ncommand = ["serve", "x"]\nenv = ["TOKEN"]\n')
    settings = Settings.from_environment({"PAVANE_MCP_SERVERS": json.dumps(given)})
    assert settings.mcp(environment) == [
        McpServer("files", ("serve", "x"), {"TOKEN": "secret"}),
        McpServer("far", url="https://h", headers={"A": "secret"}),
    ]
    assert "secret" not in f"{settings.mcp(environment)}"
    of_file = Settings.from_environment({"PAVANE_MCP_SERVERS": str(tmp_path / "mcp.toml")})
    assert of_file.mcp(environment) == settings.mcp(environment)[:1]
    with pytest.raises(SettingsError, match="PAVANE_MCP_SERVERS: files: the variable TOKEN is not set"):
        settings.mcp({})


@pytest.mark.parametrize(
    "servers",
    ["no json", "[]", {"Two Words": {"command": ["x"]}}, {"a": {}}, {"a": {"command": ["x"], "url": "http://h"}},
     {"a": {"url": "ftp://h"}}, {"a": {"url": "http://h", "env": ["X"]}}, {"a": {"comand": ["x"]}}],
)  # fmt: skip
def test_mcp_servers_that_can_not_be(servers: Any) -> None:
    text = servers if isinstance(servers, str) else json.dumps(servers)
    with pytest.raises(SettingsError, match="PAVANE_MCP_SERVERS"):
        Settings.from_environment({"PAVANE_MCP_SERVERS": text})


def test_connections_stand_in_the_variable_or_in_a_file(tmp_path: Path) -> None:
    url = "postgresql://me:sekret@h:5/d"
    toml, of_json = tmp_path / "connections.toml", tmp_path / "connections.json"
    toml.write_text(f'[warehouse]\nurl = "{url}"\nwrite = true\nmax_rows = 5\n')
    given = json.dumps({"warehouse": {"url": url, "write": True, "max_rows": 5}})
    of_json.write_text(given)
    for text in (given, str(toml), str(of_json)):
        settings = Settings.from_environment({"PAVANE_CONNECTIONS": text})
        assert settings.connections == {"warehouse": ConnectionOptions(url, write=True, max_rows=5)}
        assert settings.with_options(port=1).connections == settings.connections
        assert "sekret" not in f"{settings!r} {settings.connections}"
    assert Settings.from_environment({}).connections == {}


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("postgresql://me:sekret@h/d", ""),
        ("[]", ""),
        ('{"w": "postgresql://me:sekret@h/d"}', ""),
        ('{"w": {"url": "sekret://h"}}', "w: url"),
        ('{"w": {"url": "postgresql://me:se/kret@h/sekret"}}', "encode"),
        ('{"w": {"url": "postgresql://me:x@sekret@h/d"}}', "encode"),
        ('{"w": {}}', "w: url"),
        ('{"w": {"url": "postgresql://h", "wirte": "sekret"}}', "w: wirte"),
        ('{"w": {"url": "postgresql://h", "max_rows": 0}}', "w: max_rows"),
        ('{"w": {"url": "postgresql://h", "write": "sekret"}}', "w: write"),
        ('{"two words": {"url": "postgresql://me:sekret@h/d"}}', "the name"),
    ],
)
def test_connections_that_can_not_be(given: str, named: str) -> None:
    with pytest.raises(SettingsError, match=f"PAVANE_CONNECTIONS: .*{named}") as caught:
        Settings.from_environment({"PAVANE_CONNECTIONS": given})
    assert "sekret" not in str(caught.value)


def test_every_setting_is_described() -> None:
    rows = described()
    assert {"REDIS_URL", "DATABASE_URL", "OLLAMA_HOST", "PAVANE_DATA"} <= {name for name, _, _ in rows}
    assert all(description for _, _, description in rows)
    assert not any("Undefined" in default for _, default, _ in rows)


def test_the_examples_are_found() -> None:
    assert examples_folder().is_dir()


def test_an_artifact_store_has_what_the_standard_variables_say() -> None:
    assert Settings.from_environment({}).store({"AWS_ACCESS_KEY_ID": "a"}) is None
    settings = Settings.from_environment({"PAVANE_ARTIFACT_STORE": "s3://bucket/some/where"})
    standard = {
        "AWS_ENDPOINT_URL": "http://h:1", "AWS_REGION": "eu", "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "sekret", "AWS_SESSION_TOKEN": "tokn",
    }  # fmt: skip
    store = settings.store(standard)
    assert store == StoreOptions("s3://bucket/some/where", "http://h:1", "eu", "a", "sekret", "tokn")
    assert "sekret" not in repr(store) and "tokn" not in repr(store)
    more = settings.store({**standard, "AWS_ENDPOINT_URL_S3": "http://s3:1", "AWS_SESSION_TOKEN": ""})
    assert more and (more.endpoint, more.session_token) == ("http://s3:1", None)


def test_history_that_would_go_before_redis_forgets_the_run() -> None:
    check_history_days(Settings.from_environment({"PAVANE_HISTORY_DAYS": "2"}))
    with pytest.raises(SettingsError, match="PAVANE_HISTORY_DAYS"):
        check_history_days(Settings.from_environment({"PAVANE_HISTORY_DAYS": "2", "PAVANE_RETENTION_S": "172800"}))
