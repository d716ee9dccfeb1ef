"""`learnback-trainer`: configure, load, recover, and learn until told to stop.

SIGTERM or SIGINT gives up a round that is not decided yet, or lets one that is decided come to its
end; its feedback stays in the queue, and nothing is lost. Before the model has loaded it ends the
process. Exit codes: 0 after either, 1 if the trainer could not start, 2 if the configuration was
refused.

`torchrun --nproc-per-node N -m learnback_trainer` starts N processes that hold one model together:
the first is the trainer, and the others do their share of what the model has to do (`team.py`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from learnback_telemetry.exposition import Exposition
from learnback_telemetry.logs import set_up_logging
from learnback_telemetry.tracing import open_tracer
from learnback_trainer.config import (
    ConfigError,
    TrainerConfig,
    follows,
    is_one_of_several,
    read_command_line,
)
from learnback_trainer.errors import TeamError, TrainerError

if TYPE_CHECKING:
    from learnback_store.connection import Client
    from learnback_trainer.health import Pulse
    from learnback_trainer.metrics import TrainerMetrics
    from learnback_trainer.mixture import Mixture
    from learnback_trainer.school import Curriculum

_log = logging.getLogger("learnback_trainer")

# Adapters bear ten times what all weights do.
_LEARNING_RATES = {"lora": 2e-3, "full": 3e-4}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the trainer until it is told to stop; returns the exit code."""
    try:
        command = read_command_line(sys.argv[1:] if argv is None else argv)
    except ConfigError as error:
        sys.stderr.write(f"learnback-trainer: {error}\n")
        return 2
    if command.print_config:
        sys.stdout.write(command.config.to_toml())
        return 0
    config = command.config
    level = "error" if follows() and config.log_level != "debug" else config.log_level
    set_up_logging("learnback_trainer", level, config.log_format)
    _stop_at_once()
    return _train(config, consolidate=command.consolidate)


def _train(config: TrainerConfig, *, consolidate: bool) -> int:
    # Not before the configuration is known to be good: torch takes seconds to import.
    import torch

    from learnback_store.archive import Archive
    from learnback_store.checkpoints import open_checkpoints
    from learnback_store.connection import connect
    from learnback_store.errors import (
        ArchiveError,
        CheckpointHomeError,
        StoreUnavailableError,
    )
    from learnback_store.keys import Keys
    from learnback_trainer.canaries import read_canaries
    from learnback_trainer.following import follow
    from learnback_trainer.health import Pulse
    from learnback_trainer.loop import Trainer
    from learnback_trainer.metrics import TrainerMetrics
    from learnback_trainer.pupil import LoraShape, load_base
    from learnback_trainer.team import join

    metrics = TrainerMetrics()
    if config.trainer_threads:
        torch.set_num_threads(config.trainer_threads)
    try:
        team = join(config.device)
        if not team.leads:
            follow(load_base(config.model, device=config.device, dtype=config.dtype, team=team))
            team.end()
            return 0
        # What can be refused is looked at before the model is loaded, which may take minutes.
        canaries = read_canaries(config.canary_file) if config.canary_file else []
        checkpoints = open_checkpoints(config.checkpoint_dir, config.checkpoint_cache)
        pulse = Pulse(config.health_patience)
        with contextlib.ExitStack() as ends:
            redis = ends.enter_context(connect(config.redis_url))
            archive = ends.enter_context(Archive(config.archive_file))
            ends.enter_context(_served(metrics, config.metrics_listen))
            tracer = open_tracer("learnback-trainer", config.otlp_endpoint)
            ends.callback(tracer.close)
            base = load_base(config.model, device=config.device, dtype=config.dtype, team=team)
            ends.enter_context(_watched(pulse, redis, config.health_listen))
            metrics.store.watch(redis, Keys(config.redis_namespace))
            trainer = Trainer(
                base,
                redis,
                Keys(config.redis_namespace),
                archive,
                checkpoints,
                _curriculum(config),
                shape=LoraShape(config.lora_rank, config.lora_alpha),
                round_size=config.round_size,
                round_wait=config.round_wait,
                most_deliveries=config.most_deliveries,
                consolidate_rounds=config.consolidate_rounds,
                author_share=config.author_share,
                trusted_authors=_listed(config.trusted_authors),
                most_drift=config.most_drift,
                retries=config.retries,
                keep=(config.keep_published, config.keep_rejected),
                canaries=canaries,
                metrics=metrics,
                tracer=tracer,
                pulse=pulse.beat,
            )
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: trainer.stop())
            if consolidate:
                trainer.recover()
                trainer.tidy()
                _log.info("published %s", trainer.consolidate() or "nothing")
            else:
                trainer.run()
        team.end()
    except TeamError as error:
        _log.error("%s", error)
        logging.shutdown()
        # A collective operation that others have left may never end, nor let go of the process.
        os._exit(1)
    except (
        TrainerError, ArchiveError, CheckpointHomeError, StoreUnavailableError, ValueError,
    ) as error:  # fmt: skip
        _log.error("%s", error)
        return 1
    return 0


def _stop_at_once() -> None:
    """Lets a signal end the process, until something better is done about it.

    By a handler, because process 1, as which containers run us, gets no signal without one. A
    process of several is not that, and a handler would not be heard while it waits for the others.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL if is_one_of_several() else lambda *_: os._exit(0))


@contextlib.contextmanager
def _served(metrics: TrainerMetrics, listen: str) -> Iterator[None]:
    """Serves metrics for as long as the `with` lasts, if an address is configured."""
    if not listen:
        yield
        return
    exposition = Exposition(metrics.families, listen)
    try:
        exposition.start()
    except OSError as error:
        raise TrainerError(
            f"can't serve metrics on {listen}: {error}. "
            "Choose another address with --metrics-listen."
        ) from error
    _log.info("serving metrics on port %d", exposition.port)
    try:
        yield
    finally:
        exposition.close()


@contextlib.contextmanager
def _watched(pulse: Pulse, redis: Client, listen: str) -> Iterator[None]:
    """Serves health for as long as the `with` lasts, if an address is configured."""
    if not listen:
        yield
        return
    from learnback_trainer.health import TrainerHealth, served

    with served(TrainerHealth(pulse, redis), listen) as port:
        _log.info("serving health on port %d", port)
        yield


def _listed(names: str) -> frozenset[str]:
    """What is listed with commas between."""
    return frozenset(filter(None, map(str.strip, names.split(","))))


def _curriculum(config: TrainerConfig) -> Curriculum:
    from learnback_trainer.acceptance import Terms
    from learnback_trainer.anchors import Amounts
    from learnback_trainer.gate import Budget
    from learnback_trainer.school import Curriculum
    from learnback_trainer.students import Method
    from learnback_trainer.update import Recipe

    return Curriculum(
        Recipe(
            steps=config.steps,
            learning_rate=config.learning_rate or _LEARNING_RATES[config.method],
            lessons=config.step_lessons,
            anchors=config.step_anchors,
            renew_steps=config.renew_steps,
            mixture=_mixture(config),
            method=Method(config.method),
        ),
        Budget(
            adoption=config.least_adoption,
            anchor_nats=config.most_anchor_nats,
            changed=config.most_changed,
            revision=config.least_revision,
            accuracy_lost=config.most_accuracy_lost,
            acceptance_lost=config.most_acceptance_lost,
        ),
        Amounts(),
        config.answer_tokens,
        config.seed,
        _listed(config.scripts),
        Terms(
            on=config.acceptance,
            examples=config.acceptance_examples,
            auc=config.least_acceptance_auc,
        ),
    )


def _mixture(config: TrainerConfig) -> Mixture:
    from learnback_store.records import Objective
    from learnback_trainer.mixture import Mixture
    from learnback_trainer.objectives.distillation import Divergence
    from learnback_trainer.objectives.dpo import Dpo
    from learnback_trainer.objectives.kto import Kto

    return Mixture(
        critiques=Objective(config.critique_objective),
        refinements=config.refinements,
        divergence=Divergence(config.divergence),
        teacher_pieces=config.teacher_pieces,
        teacher_decay=config.teacher_decay,
        weights={
            Objective.DISTILLATION: config.critique_weight,
            Objective.IMITATION: config.critique_weight,
            Objective.SFT: config.correction_weight,
            Objective.KTO: config.rating_weight,
            Objective.DPO: config.preference_weight,
        },
        kto=Kto(beta=config.kto_beta),
        dpo=Dpo(config.dpo_beta, config.dpo_likelihood),
    )


if __name__ == "__main__":
    sys.exit(main())
