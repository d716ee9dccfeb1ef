"""The running server: how it is put together, and how it is taken down.

Message sizes: requests up to `max_message_bytes` are served, larger ones are refused by `guard.py`
with MESSAGE_TOO_LARGE. To refuse them it must first receive them, which is done up to
`RECEIVE_FACTOR` times the bound; beyond that gRPC itself refuses with a bare RESOURCE_EXHAUSTED.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import sys
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import (  # type: ignore[import-untyped]
    health,
    health_pb2,
    health_pb2_grpc,
)
from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped]
from transformers.utils import logging as transformers_logging

from learnback.v1 import inference_pb2, inference_pb2_grpc
from learnback_server.auth import AuthFileError, Gatekeeper, TokenFile
from learnback_server.calls import CallWatch
from learnback_server.catalog import Catalog
from learnback_server.config import NANO, ServerConfig
from learnback_server.engine.aside import aside
from learnback_server.engine.engine import Engine
from learnback_server.engine.loading import LoadedModel, ModelError, load_model
from learnback_server.engine.messages import FinishReason, GenerationRequest, SamplingParams
from learnback_server.guard import Guard
from learnback_server.handover import Handover, hints
from learnback_server.hot_swap import HotSwap
from learnback_server.intake import Defaults, Intake
from learnback_server.limits import Admission
from learnback_server.mailbox import PostOffice
from learnback_server.metrics import ServerMetrics
from learnback_server.prompts import PromptReader
from learnback_server.records import GenerationRecorder
from learnback_server.service import InferenceService
from learnback_server.tls import Certificates, TlsError, TlsFiles
from learnback_store.errors import CheckpointHomeError, StoreUnavailableError
from learnback_telemetry.exposition import Exposition
from learnback_telemetry.tracing import Tracer

_log = logging.getLogger(__name__)

INFERENCE = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name
# Unlimited would let one caller fill the memory; a few times the bound covers honest mistakes.
RECEIVE_FACTOR = 4
# Clients may ping this often without being taken for attackers; gRPC clients ping at most every 10.
_CLIENT_PING_SECONDS = 5.0
# For handlers to write the last message of what was aborted at the end of the drain.
_FAREWELL_SECONDS = 2.0
_CHECK_ID = "gen-startup-check"


class StartError(Exception):
    """The server can't start; the message says why, and what to do."""


def new_server(
    config: ServerConfig, metrics: ServerMetrics, tracer: Tracer
) -> tuple[grpc.aio.Server, int]:
    """Returns a gRPC server that is bound to its port but not yet started, and the port.

    Raises:
        StartError: The address can't be listened on, or its tokens or certificates can't be used.
    """
    try:
        gatekeeper = Gatekeeper(TokenFile(Path(config.auth_file))) if config.auth_file else None
        credentials = _credentials(config)
    except (AuthFileError, TlsError) as error:
        raise StartError(str(error)) from error
    server = grpc.aio.server(
        interceptors=[
            CallWatch(metrics, tracer),
            Guard(config.max_message_bytes, hints(config), metrics.refused, gatekeeper),
        ],
        options=_channel_options(config),
    )
    try:
        if credentials is None:
            port = server.add_insecure_port(config.listen)
        else:
            port = server.add_secure_port(config.listen, credentials)
    except RuntimeError as error:
        raise StartError(
            f"can't listen on {config.listen}: {error}. Is another server running there? "
            "Choose another address with --listen."
        ) from error
    _warn_of_open_doors(config)
    return server, port


def _credentials(config: ServerConfig) -> grpc.ServerCredentials | None:
    """Returns what connections are encrypted with; None if they are not."""
    if not config.tls_cert:
        return None
    authorities = Path(config.tls_client_ca) if config.tls_client_ca else None
    files = TlsFiles(Path(config.tls_cert), Path(config.tls_key), authorities)
    return Certificates(files).credentials()


def _warn_of_open_doors(config: ServerConfig) -> None:
    """Says what others on the network can do, if they can reach the address."""
    if config.is_local:
        return
    if not (config.auth_file or config.tls_client_ca):
        _log.warning(
            "whoever reaches %s can use, teach and administer this server: "
            "set --auth-file or --tls-client-ca",
            config.listen,
        )
    if not config.tls_cert:
        _log.warning(
            "what goes to and from %s, tokens included, can be read on the way unless the network "
            "encrypts: set --tls-cert and --tls-key",
            config.listen,
        )


def _channel_options(config: ServerConfig) -> list[tuple[str, int]]:
    return [
        # Else a second server on the same port would quietly take half of the calls.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", config.max_message_bytes * RECEIVE_FACTOR),
        ("grpc.max_send_message_length", -1),
        ("grpc.keepalive_time_ms", _ms(config.keepalive)),
        ("grpc.keepalive_timeout_ms", _ms(config.keepalive_timeout)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", _ms(_CLIENT_PING_SECONDS)),
        ("grpc.max_connection_age_ms", _ms(config.max_connection_age)),
        ("grpc.max_connection_age_grace_ms", _ms(config.max_connection_age_grace)),
    ]


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def load(config: ServerConfig) -> LoadedModel:
    """Loads the configured model. Takes seconds to minutes.

    Raises:
        StartError: It can't be loaded or served.
    """
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    name = _embedded_model() if config.model == NANO else config.model
    try:
        # No request may be larger than the cache: it could never be computed.
        return aside(
            load_model,
            name,
            device=config.device,
            dtype=config.dtype,
            threads=config.threads,
            context_limit=config.cache_tokens,
        )
    except ModelError as error:
        raise StartError(f"can't load the model: {error}") from error


def _embedded_model() -> str:
    try:
        return str(importlib.import_module("learnback_nano").path())
    except ModuleNotFoundError as error:
        raise StartError(
            "the embedded model is not installed; name a folder or a model of the hub with --model"
        ) from error


@dataclass(frozen=True, slots=True)
class App:
    """A server with its model: everything that lives from the start to the end of the process."""

    config: ServerConfig
    server: grpc.aio.Server
    health: health.aio.HealthServicer
    engine: Engine
    post: PostOffice
    admission: Admission
    recorder: GenerationRecorder
    handover: Handover | None
    """None if no Redis is configured."""
    swap: HotSwap | None
    """None if no place of checkpoints is configured."""
    metrics: ServerMetrics
    tracer: Tracer
    exposition: Exposition | None
    """None if no metrics are served."""
    services: tuple[str, ...]
    """Full names of ours that are offered."""
    model: LoadedModel
    lost: asyncio.Event
    """Set when the engine's thread is found dead; the process should end."""

    async def start(self) -> None:
        """Proves that the model makes a token, then takes calls.

        Raises:
            StartError: The first token could not be made, metrics can't be served, or the object
                store of checkpoints can't be reached.
        """
        self._serve_metrics()
        self.engine.start()
        await self._make_one_token()
        if self.handover is not None:
            await self.handover.greet()
            if self.swap is not None:
                await self._take_up(self.swap, self.handover)
        for service in self.services:
            await self.health.set(service, health_pb2.HealthCheckResponse.SERVING)
        await self.server.start()

    async def drain(self, hurry: asyncio.Event) -> None:
        """Takes no more calls, lets those inside end within the grace, and stops.

        Args:
            hurry: Once set, the grace is over.
        """
        await self.health.enter_graceful_shutdown()
        self.admission.close()
        if self.swap is not None:
            await self.swap.stop()
        if self.handover is not None:
            self.handover.close_doors()
        _log.info(
            "draining %d calls, for at most %g s", self.admission.inside, self.config.drain_grace
        )
        await first_of(self._emptied(self.config.drain_grace), hurry.wait())
        # Blocks for one step; all that is left is told ABORTED, and gets to say so.
        await asyncio.to_thread(self.engine.stop)
        if not await self._emptied(_FAREWELL_SECONDS):
            _log.warning("some calls did not end")
        await self.server.stop(grace=0)
        await self.recorder.aclose()
        if self.exposition is not None:
            await asyncio.to_thread(self.exposition.close)
        if self.handover is not None:
            await self.handover.aclose()
        await asyncio.to_thread(self.tracer.close)
        _log.info("stopped")

    @staticmethod
    async def _take_up(swap: HotSwap, handover: Handover) -> None:
        try:
            await swap.start(handover.aliases())
        except StoreUnavailableError as error:
            raise StartError(f"can't tell which checkpoint is live: {error}") from error

    def _serve_metrics(self) -> None:
        if self.exposition is None:
            return
        try:
            self.exposition.start()
        except OSError as error:
            raise StartError(
                f"can't serve metrics on {self.config.metrics_listen}: {error}. "
                "Choose another address with --metrics-listen."
            ) from error
        _log.info("serving metrics on port %d", self.exposition.port)

    async def _emptied(self, seconds: float) -> bool:
        """Waits until nobody is inside; returns whether that came about in time."""
        doors = (
            [self.admission] if self.handover is None else [self.admission, *self.handover.doors]
        )
        return all(await asyncio.gather(*(door.emptied(seconds) for door in doors)))

    async def _make_one_token(self) -> None:
        request = GenerationRequest(
            generation_id=_CHECK_ID,
            prompt_ids=(0,),
            sampling=SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True),
            checkpoint=self.model.facts.checkpoint,
            arrived=time.monotonic(),
        )
        with self.post.mailbox(_CHECK_ID) as mailbox:
            self.engine.submit(request)
            _, finished = await mailbox.all()
        if finished.candidates[0].reason is not FinishReason.LENGTH:
            raise StartError(f"the model did not make its first token: {finished.error}")


async def first_of(*waits: Coroutine[Any, Any, object]) -> None:
    """Waits until one of them is done, and cancels the rest."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


def build(
    config: ServerConfig,
    server: grpc.aio.Server,
    model: LoadedModel,
    metrics: ServerMetrics,
    tracer: Tracer,
) -> App:
    """Puts the services on a server. Call it on the event loop that will run them.

    Raises:
        StartError: The place of checkpoints can't be used.
    """
    post = PostOffice(asyncio.get_running_loop())
    options = config.engine_options()
    engine = aside(Engine, model, options, post.publish, metrics)
    metrics.watch_engine(engine.stats)
    metrics.base_is_live(model.facts.checkpoint, model.facts.digest)
    admission = Admission(options.max_running + options.max_waiting)
    prompts = PromptReader(model.tokenizer, model.facts)
    catalog = Catalog(model.facts)
    intake = Intake(
        model.facts,
        prompts,
        catalog,
        Defaults(config.max_tokens, config.queue_timeout),
    )
    handover = _open_handover(config)
    log = handover.generations if handover else None
    checkpoints = handover.checkpoints if handover else None
    swap = None
    if checkpoints is not None:
        swap = HotSwap(
            model,
            engine,
            catalog,
            checkpoints,
            metrics,
            tracer,
            merge=config.merge == "auto",
            drain=config.swap == "drain",
        )
    recorder = GenerationRecorder(log, prompts.text_of, log_texts=config.log_texts)
    lost = asyncio.Event()
    service = InferenceService(engine, post, admission, intake, recorder, lost.set)
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(service, server)
    told = handover.serve(server, model.facts, catalog, metrics) if handover else ()
    services = (INFERENCE, *told)
    servicer = _tell_of(services, server)
    return App(
        config=config,
        server=server,
        health=servicer,
        engine=engine,
        post=post,
        admission=admission,
        recorder=recorder,
        handover=handover,
        swap=swap,
        metrics=metrics,
        tracer=tracer,
        exposition=(
            Exposition(metrics.families, config.metrics_listen) if config.metrics_listen else None
        ),
        services=services,
        model=model,
        lost=lost,
    )


def _open_handover(config: ServerConfig) -> Handover | None:
    if not config.redis_url:
        return None
    try:
        return Handover.open(config)
    except CheckpointHomeError as error:
        raise StartError(str(error)) from error


def _tell_of(services: tuple[str, ...], server: grpc.aio.Server) -> health.aio.HealthServicer:
    """Puts health and reflection on a server."""
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    told = (*services, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(told, server)
    return servicer
