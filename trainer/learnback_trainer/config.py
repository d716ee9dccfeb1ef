"""The configuration of the trainer: one typed object, read from flags, environment and file.

A value is taken from the first place that has one: the flag (`--round-size 16`), the environment
(`LEARNBACK_ROUND_SIZE=16`), the TOML file named by `--trainer-config` or `LEARNBACK_TRAINER_CONFIG`
(`round_size = 16`), the default. All of it is read and refused before torch is imported.

Unknown flags and unknown keys of the file are refused. Unknown variables of the environment are
not, for the server and the client share the prefix. What is set in both programs bears one name in
both: model, device, dtype, redis_url, redis_namespace, checkpoint_dir, checkpoint_cache,
metrics_listen, log_level, log_format, otlp_endpoint.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

ENV_PREFIX = "LEARNBACK_"
# May hold a password; never printed.
_SECRET = frozenset({"redis_url"})
_HOST_PORT_OR_NONE = r"^(([^:\s]+|\[[0-9a-fA-F:.]+\]):\d{1,5})?$"
_FILE_VARIABLE = f"{ENV_PREFIX}TRAINER_CONFIG"


class ConfigError(Exception):
    """The configuration can't be used; the message says what to change."""


class TrainerConfig(BaseSettings):
    """All that can be set about the trainer. Constructing one directly reads no environment."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", frozen=True)

    redis_url: str = Field(
        min_length=1,
        repr=False,
        description="Redis with the feedback: redis://, rediss://, unix:// or redis+sentinel://.",
    )
    redis_namespace: str = Field(
        "learnback",
        pattern=r"^[A-Za-z0-9_-]+$",
        description="Prefix of all keys; the server's.",
    )
    checkpoint_dir: str = Field(
        min_length=1,
        description="Folder of checkpoints, shared with the server, or their place in an object "
        "store: s3://BUCKET/PREFIX.",
    )
    checkpoint_cache: Path | None = Field(
        None,
        description="Local folder that checkpoints are written and fetched in, for an object "
        "store; several programs may share it. Default: one of this user in the folder for "
        "temporary files.",
    )
    archive_file: Path = Field(
        description="File of the archive (SQLite), on a local disk; one trainer at a time."
    )

    model: str = Field(
        "nano",
        min_length=1,
        description="Base model: 'nano' (embedded), a folder, or a name of the hub; the server's.",
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="auto (cuda if there is one), cpu, cuda or cuda:N.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Type of the base's weights. auto: float32 on cpu, as stored on cuda."
    )
    trainer_threads: int = Field(
        0, ge=0, le=1024, description="CPU threads of the training. 0: as many as torch chooses."
    )

    round_size: int = Field(16, ge=1, le=4096, description="Most feedback in one round.")
    round_wait: float = Field(
        2.0,
        ge=0,
        le=86400,
        description="Seconds that the first feedback of a round may wait for others.",
    )
    author_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Share of a round that one author may have where several have said something; "
        "the rest waits for a later round.",
    )
    trusted_authors: str = Field(
        "",
        description='Authors who may send any amount, such as "editors,tests". Of others, if one '
        "sends nearly all that is at hand, their corrections are quarantined.",
    )
    scripts: str = Field(
        "",
        pattern=r"^([a-z]+(,[a-z]+)*)?$",
        description="Scripts that feedback may be written in, as Unicode names them, such as "
        '"latin,cjk"; other feedback is quarantined. Empty: any.',
    )
    answer_tokens: int = Field(
        256, ge=1, description="Longest answer or revision that is taught or compared, in tokens."
    )
    canary_file: Path | None = Field(
        None,
        description="JSON lines with questions whose answers must not change: "
        '{"prompt": ...} or {"messages": [...]}, with "expected": ... if it is known.',
    )

    method: Literal["lora", "full"] = Field(
        "lora",
        description="What is taught: a LoRA adapter on the base model, or all weights of a copy.",
    )
    lora_rank: int = Field(8, ge=1, le=1024, description="Rank of the first adapter.")
    lora_alpha: int = Field(16, ge=1, le=4096, description="Scale of the first adapter.")
    learning_rate: float | None = Field(
        None, gt=0, le=1, description="Of AdamW. Default: 2e-3 for adapters, 3e-4 for all weights."
    )
    steps: int = Field(60, ge=1, le=100_000, description="Most steps of a round.")
    step_lessons: int = Field(8, ge=1, le=1024, description="Lessons in a step.")
    step_anchors: int = Field(12, ge=0, le=1024, description="Anchors in a step.")
    renew_steps: int = Field(
        10,
        ge=1,
        description="Steps between two times that the student answers anew and is revised anew.",
    )
    seed: int = Field(0, ge=0, description="Of what is drawn at random.")

    critique_objective: Literal["distillation", "imitation"] = Field(
        "distillation",
        description="What critiques are learned by: 'distillation' of the model that has read "
        "them, or 'imitation' of its best revision.",
    )
    refinements: int = Field(
        1,
        ge=1,
        le=64,
        description="Revisions made of each criticised answer, of which the best is learned. "
        "1: the likeliest, without sampling.",
    )
    divergence: Literal["forward-kl", "reverse-kl", "jsd"] = Field(
        "forward-kl", description="Distillation: how far the student is from the teacher."
    )
    teacher_pieces: int = Field(
        0,
        ge=0,
        description="Distillation: likeliest pieces of the teacher that are compared one by one, "
        "all others as one more. 0: the whole vocabulary; 100 is enough for a large one.",
    )
    teacher_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Distillation: what the teacher keeps of itself at each step, the rest is the "
        "student's. 1: it is the frozen base model.",
    )
    kto_beta: float = Field(0.1, gt=0, description="Ratings: beta of KTO, in 1 / nats.")
    dpo_beta: float = Field(0.1, gt=0, description="Preferences: beta of DPO, in 1 / nats.")
    dpo_likelihood: float = Field(
        0.2, ge=0, description="Preferences: weight of the preferred answer's own loss."
    )
    critique_weight: float = Field(
        1.0, ge=0, le=1, description="How much a critique counts in a round. 0: not taught."
    )
    correction_weight: float = Field(1.0, ge=0, le=1, description="The same of a correction.")
    rating_weight: float = Field(1.0, ge=0, le=1, description="The same of a rating of 1 or -1.")
    preference_weight: float = Field(1.0, ge=0, le=1, description="The same of a preference.")

    consolidate_rounds: int = Field(
        10,
        ge=0,
        description="Rounds after which all that is learned is learned anew from the base model, "
        "in one round, and published if that holds as much. Only while no feedback waits: it makes "
        "way for what comes. 0: never by itself.",
    )
    retries: int = Field(
        8,
        ge=0,
        le=1000,
        description="Most rounds held after the gate has refused one, about halves of it, to learn "
        "what of it can be learned.",
    )
    least_adoption: float = Field(
        0.6, ge=0, le=1, description="Gate: share of the lessons that must be obeyed."
    )
    most_anchor_nats: float = Field(
        0.05, ge=0, description="Gate: nats a token that other answers may move."
    )
    most_changed: float = Field(
        0.1, ge=0, le=1, description="Gate: share of other answers that may change."
    )
    most_accuracy_lost: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Gate: share of the canaries with an expected answer that may become wrong.",
    )
    least_revision: float = Field(
        0.8, ge=0, le=1, description="Gate: share of revisions that must stay as they were."
    )

    acceptance: bool = Field(
        True,
        description="Whether a checkpoint gets an acceptance head: what tells how likely a user is "
        "to accept an answer, learned from what was accepted and criticised.",
    )
    acceptance_examples: int = Field(
        8, ge=2, description="Acceptance head: least accepted, and least criticised, answers."
    )
    least_acceptance_auc: float = Field(
        0.7,
        ge=0,
        le=1,
        description="Acceptance head: share of pairs of an accepted and a criticised answer that "
        "it must tell apart, on prompts that it was not fitted to; else the checkpoint has none.",
    )
    most_acceptance_lost: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Gate: how much less likely to be accepted other answers may become, by the "
        "live checkpoint's acceptance head.",
    )

    most_drift: float = Field(
        0.5,
        ge=0,
        description="Nats a token that all rounds since the base model, or since the last "
        "consolidation, may move other answers by; beyond it there is an alarm.",
    )

    most_deliveries: int = Field(
        5, ge=1, le=1000, description="Times that feedback is tried before it is a dead letter."
    )
    keep_published: int = Field(
        20, ge=1, description="Published checkpoints kept, besides those an alias points at."
    )
    keep_rejected: int = Field(5, ge=0, description="Rejected candidates kept for inspection.")
    metrics_listen: str = Field(
        "",
        pattern=_HOST_PORT_OR_NONE,
        description="Address to serve metrics on over HTTP, HOST:PORT, such as 127.0.0.1:9464. "
        "Port 0 takes a free one, which is logged. Empty: none are served.",
    )
    health_listen: str = Field(
        "",
        pattern=_HOST_PORT_OR_NONE,
        description="Address to serve the standard gRPC health service on, HOST:PORT, for probes. "
        "Port 0 takes a free one, which is logged. Empty: none is served.",
    )
    health_patience: float = Field(
        900.0,
        gt=0,
        le=86400,
        description="Seconds without progress of the loop after which it counts as dead; more than "
        "the longest pass of a round without a step, such as answering all its questions.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe messages to log: debug, info, warning or error."
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="text for people, json (one object a line) for collectors."
    )
    otlp_endpoint: str = Field(
        "",
        pattern=r"^(https?://[^/\s]+/?)?$",
        description="Collector that traces go to, by OTLP over gRPC: http://HOST:4317, or https:// "
        "for TLS. Empty: none are made. OTEL_* variables set the rest.",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Leaves only the arguments: `read_command_line` merges the sources in the open."""
        return (init_settings,)

    def to_toml(self) -> str:
        """Returns the values that are set as a TOML file, each explained, but for secrets."""
        values = self.model_dump(mode="json")
        return "\n".join(
            # JSON spells strings, numbers and truth values as TOML does.
            f"# {field.description}\n{name} = {json.dumps(values[name], ensure_ascii=False)}\n"
            for name, field in type(self).model_fields.items()
            if values[name] is not None and name not in _SECRET
        )


@dataclass(frozen=True, slots=True)
class CommandLine:
    """What the command line asked for."""

    config: TrainerConfig
    print_config: bool
    consolidate: bool


def read_command_line(
    argv: Sequence[str], environment: Mapping[str, str] = os.environ
) -> CommandLine:
    """Reads flags, environment and file, in this order of precedence.

    Args:
        argv: The flags, without the program's name.
        environment: Where `LEARNBACK_*` is looked up.

    Raises:
        ConfigError: A value or a key of the file is missing, unknown or out of its range.
        SystemExit: `--help` or `--version` was asked for, or a flag is unknown.
    """
    parser = _parser()
    flags = CliSettingsSource[argparse.ArgumentParser](
        TrainerConfig,
        root_parser=parser,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_enforce_required=False,
    )
    arguments = parser.parse_args(argv)
    file = arguments.trainer_config or environment.get(_FILE_VARIABLE)
    values = _file_values(Path(file)) if file else {}
    values |= {
        name: environment[ENV_PREFIX + name.upper()]
        for name in TrainerConfig.model_fields
        if ENV_PREFIX + name.upper() in environment
    }
    values |= flags(parsed_args=arguments)()
    config = _validated(values)
    if is_one_of_several(environment):
        _refuse_for_several(config)
    return CommandLine(config, arguments.print_config, arguments.consolidate)


def is_one_of_several(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether `torchrun` has started this process beside others."""
    return environment.get("WORLD_SIZE", "1") != "1"


def follows(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether `torchrun` has started this process beside one that leads."""
    return environment.get("RANK", "0") != "0"


def _refuse_for_several(config: TrainerConfig) -> None:
    if config.method == "full":
        raise ConfigError(
            "method: several processes teach an adapter together, and no full weights: choose "
            "--method lora, or start one process (torchrun --nproc-per-node 1)"
        )
    if ":" in config.device:
        raise ConfigError(
            f"device: each of several processes has a GPU of its own, and {config.device} is one: "
            "choose --device cuda"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="learnback-trainer",
        description="Teaches a served model what its users said about its answers.",
        allow_abbrev=False,
    )
    version = importlib.metadata.version("learnback")
    parser.add_argument("--version", action="version", version=f"learnback {version}")
    parser.add_argument("--trainer-config", metavar="FILE", help="TOML file to read values from")
    parser.add_argument(
        "--print-config", action="store_true", help="print the effective values as TOML, and exit"
    )
    parser.add_argument(
        "--consolidate",
        action="store_true",
        help="learn anew from the base model all that is learned, and exit; no other trainer may "
        "work on the archive",
    )
    return parser


def _file_values(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"the configuration file {file} can't be read: {error}") from error


def _validated(values: dict[str, Any]) -> TrainerConfig:
    try:
        return TrainerConfig(**values)
    except ValidationError as error:
        raise ConfigError("\n".join(map(_problem, error.errors()))) from error


def _problem(details: Mapping[str, Any]) -> str:
    name = ".".join(str(part) for part in details["loc"])
    if details["type"] == "missing":
        return f"{name}: must be given (--{name.replace('_', '-')} or {ENV_PREFIX}{name.upper()})"
    if details["type"] == "extra_forbidden":
        return f"{name}: no such option; see --help for all there is"
    return f"{name}: {details['msg']}, not {details['input']!r}"
