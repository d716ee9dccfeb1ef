"""How feedback is configured, and what is refused."""

from __future__ import annotations

import pytest

from learnback_server.config import ConfigError, ServerConfig, read_command_line


@pytest.mark.parametrize(
    "url",
    [
        "",
        "redis://localhost:6379/0",
        "rediss://:secret@redis.example:6380/1",
        "unix:///run/redis.sock?db=1",
        "redis+sentinel://a:26379,b:26379/main/0",
    ],
)
def test_every_form_of_url_is_taken(url):
    assert ServerConfig(redis_url=url).redis_url == url


@pytest.mark.parametrize(
    "url", ["http://:hunter2@redis", "redis.example:6379", "redis+sentinel://:hunter2@/x"]
)
def test_other_urls_are_refused_without_repeating_them(url):
    with pytest.raises(ConfigError, match="redis_url: must be redis://") as refused:
        read_command_line(["--redis-url", url], {})
    assert url not in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_a_password_is_not_shown():
    assert "hunter2" not in repr(ServerConfig(redis_url="redis://:hunter2@localhost"))


@pytest.mark.parametrize(
    "fields",
    [
        {"generation_expiry": 0},
        {"generation_expiry": 1e12},
        {"redis_namespace": ""},
        {"redis_namespace": "a:b"},
        {"redis_namespace": "{a}"},
    ],
)
def test_what_could_not_work_is_refused(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        ServerConfig(**fields)


def test_records_are_kept_for_a_week():
    assert ServerConfig().generation_expiry == 7 * 86400
