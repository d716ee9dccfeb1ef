"""Putting the events of a stream together, so that a stream and a single call end in one Reply.

The events are gathered into the very message that Generate answers with, and that is read as any
other: what a stream ends in can't differ from what the single call says.
"""

from __future__ import annotations

from learnback.v1 import inference_pb2
from learnback_client.generation import Delta, Event, Finished, Reply, Started, read_reply


class Gathering:
    """Collects the events of one stream."""

    def __init__(self) -> None:
        self._response = inference_pb2.GenerateResponse()
        self._texts: dict[int, list[str]] = {}
        self.finished = False

    @property
    def generation_id(self) -> str:
        """Id of the generation; empty until it has started."""
        return self._response.generation_id

    def add(self, event: Event) -> None:
        """Takes the next event."""
        match event:
            case Started():
                self._start(event.raw)
            case Delta():
                self._extend(event.raw)
            case Finished():
                self._finish(event.raw)

    def reply(self) -> Reply:
        """Returns what has been gathered so far; all of it once `finished`."""
        response = inference_pb2.GenerateResponse()
        response.CopyFrom(self._response)  # so that a reply never changes once it is given out
        for index, pieces in self._texts.items():
            response.candidates[index].text = "".join(pieces)
        return read_reply(response)

    def _start(self, started: inference_pb2.GenerationStarted) -> None:
        self._response.generation_id = started.generation_id
        self._response.checkpoint = started.checkpoint
        self._response.checkpoint_digest = started.checkpoint_digest
        self._response.request_id = started.request_id
        self._response.seed = started.seed
        self._response.usage.prompt_tokens = started.prompt_tokens

    def _extend(self, delta: inference_pb2.GenerationDelta) -> None:
        candidate = self._candidate(delta.index)
        self._texts.setdefault(delta.index, []).append(delta.text)
        candidate.token_ids.extend(delta.token_ids)
        candidate.logprobs.extend(delta.logprobs)

    def _finish(self, finished: inference_pb2.GenerationFinished) -> None:
        for end in finished.candidates:
            candidate = self._candidate(end.index)
            candidate.finish_reason = end.finish_reason
            candidate.matched_stop = end.matched_stop
            if end.HasField("acceptance"):
                candidate.acceptance = end.acceptance
        self._response.usage.CopyFrom(finished.usage)
        self._response.timings.CopyFrom(finished.timings)
        self.finished = True

    def _candidate(self, index: int) -> inference_pb2.Candidate:
        while len(self._response.candidates) <= index:
            self._response.candidates.add(index=len(self._response.candidates))
        return self._response.candidates[index]
