"""The dashboards: Serving, Learning and SLO."""

from __future__ import annotations

from dashboards.panels import RATE, Event, Line, Page, Panel, quantiles

_NS = "by (namespace)"


def _rate(name: str, *by: str, matching: str = "") -> str:
    return f"sum by ({', '.join(by)}) (rate({name}{matching}[{RATE}]))"


def _highest(name: str) -> str:
    """A figure that server and trainer export alike."""
    return f"max {_NS} ({name})"


SERVING = Page(
    "learnback-serving",
    "learnback: Serving",
    (
        (
            "What users notice",
            (
                Panel("Time to first token", "s",
                      tuple(quantiles("learnback_time_to_first_token_seconds"))),
                Panel("Time between tokens", "s",
                      tuple(quantiles("learnback_inter_token_latency_seconds"))),
                Panel("Whole answers", "s",
                      tuple(quantiles("learnback_e2e_request_latency_seconds"))),
                Panel("Calls", "reqps", (
                    Line(_rate("learnback_grpc_server_handled_total", "grpc_method", "grpc_code"),
                         "{{grpc_method}} {{grpc_code}}"),)),
                Panel("Refused and failed", "reqps", (
                    Line(_rate("learnback_rejections_total", "reason") + " > 0", "{{reason}}"),)),
                Panel("How answers ended", "reqps", (
                    Line(_rate("learnback_requests_finished_total", "finished_reason"),
                         "{{finished_reason}}"),)),
            ),
        ),
        (
            "The engine",
            (
                Panel("Requests", "short", (
                    Line("sum by (instance) (learnback_num_requests_running)",
                         "running {{instance}}"),
                    Line("sum by (instance) (learnback_num_requests_waiting)",
                         "waiting {{instance}}"),)),
                Panel("Time in the queue", "s",
                      tuple(quantiles("learnback_request_queue_time_seconds"))),
                Panel("Tokens a second", "short", (
                    Line(_rate("learnback_generation_tokens_total", "instance"),
                         "generated {{instance}}"),
                    Line(_rate("learnback_prompt_tokens_total", "instance"),
                         "of prompts {{instance}}"),)),
                Panel("Key-value cache", "percentunit", (
                    Line("max by (instance) (learnback_kv_cache_usage_perc)",
                         "in use {{instance}}"),
                    Line(f"{_rate('learnback_prefix_cache_hits_total', 'instance')} / "
                         f"{_rate('learnback_prefix_cache_queries_total', 'instance')}",
                         "prefixes found {{instance}}"),)),
                Panel("Steps a second", "short", (
                    Line(_rate("learnback_engine_steps_total", "instance"), "{{instance}}"),)),
                Panel("Records that wait for Redis", "short", (
                    Line("sum by (instance) (learnback_generation_records_waiting)",
                         "{{instance}}"),)),
            ),
        ),
        (
            "Checkpoints",
            (
                Panel("Swaps", "s", tuple(quantiles("learnback_swap_seconds", shares=(0.5, 0.99)))),
                Panel("Age of the live checkpoint", "s", (
                    Line("max by (instance) (learnback_checkpoint_age_seconds)", "{{instance}}"),)),
                Panel("Checkpoints refused", "short", (
                    Line("max by (instance) (learnback_checkpoints_refused)",
                         "pointed at, {{instance}}"),
                    Line("sum by (reason) (increase(learnback_swap_refusals_total[$__range]))",
                         "{{reason}}"),)),
            ),
        ),
    ),
)  # fmt: skip

LEARNING = Page(
    "learnback-learning",
    "learnback: Learning",
    (
        (
            "What waits",
            (
                Panel("Feedback in the queue", "short", (
                    Line(_highest("learnback_feedback_queue_depth"), "not settled"),
                    Line(_highest("learnback_feedback_queue_taken"), "with the trainer"),)),
                Panel("Oldest feedback", "s", (
                    Line(_highest("learnback_feedback_oldest_age_seconds"), "age"),)),
                Panel("Feedback that came", "short", (
                    Line("sum by (kind) (increase(learnback_feedback_submitted_total"
                         "[$__rate_interval]))", "{{kind}}"),)),
                Panel("Feedback that was settled", "short", (
                    Line("sum by (state) (learnback_feedback_settled_total)", "{{state}}"),),
                      "Since the trainer was started."),
                Panel("From feedback to serving", "s",
                      tuple(quantiles("learnback_feedback_to_serving_seconds",
                                      shares=(0.5, 0.95)))),
                Panel("Dead letters", "short", (
                    Line(_highest("learnback_feedback_dead_letters"), "put aside"),)),
            ),
        ),
        (
            "Rounds",
            (
                Panel("Rounds, by how they ended", "short", (
                    Line("sum by (end) (learnback_rounds_total)", "{{end}}"),),
                      "Since the trainer was started."),
                Panel("Verdicts of the gate", "short", (
                    Line("sum by (verdict, reason) (learnback_gate_verdicts_total)",
                         "{{verdict}} {{reason}}"),), "Since the trainer was started."),
                Panel("Phases of a round", "s", (
                    Line(f"{_rate('learnback_round_phase_seconds_sum', 'phase')} / "
                         f"{_rate('learnback_round_phase_seconds_count', 'phase')} > 0.05",
                         "{{phase}}"),), "Those that take more than a twentieth of a second."),
                Panel("Adoption", "percentunit", (
                    Line(f"max {_NS} (learnback_last_round_adoption_ratio)", "obeyed"),),
                      "Share of the last round's lessons that were obeyed without the critique."),
                Panel("Forgetting", "percentunit", (
                    Line(f"max {_NS} (learnback_last_round_forgetting_spent_ratio)",
                         "of the budget"),
                    Line(f"max {_NS} (learnback_last_round_changed_ratio)", "answers changed"),),
                      "What the last round took of what the gate lets it move."),
                Panel("Figures of the last round", "short", (
                    Line("max by (figure) (learnback_last_round_figure)", "{{figure}}"),)),
                Panel("Lessons", "short", (
                    Line("sum by (objective) (learnback_lessons_total)", "{{objective}}"),),
                      "Since the trainer was started."),
            ),
        ),
        (
            "Redis",
            (
                Panel("Redis", "short", (
                    Line(f"min {_NS} (learnback_redis_up)", "answers"),
                    Line(f"min {_NS} (learnback_redis_aof_enabled)", "writes its file"),
                    Line(f"min {_NS} (learnback_redis_aof_ok)", "wrote it well"),)),
                Panel("Memory of Redis", "bytes", (
                    Line(_highest("learnback_redis_memory_used_bytes"), "used"),
                    Line(f"{_highest('learnback_redis_memory_max_bytes')} > 0", "allowed"),)),
            ),
        ),
    ),
    (
        Event(
            "Live checkpoints",
            "count by (checkpoint, parent, digest) (learnback_live_checkpoint_info) unless "
            "count by (checkpoint, parent, digest) (learnback_live_checkpoint_info offset 1m)",
            "{{checkpoint}} is live",
            "made from {{parent}}, {{digest}}",
        ),
    ),
)  # fmt: skip


def _burn(name: str, budget: float) -> tuple[Line, ...]:
    return tuple(
        Line(f"learnback:{name}:ratio_rate{window} / {budget}", f"over {window}")
        for window in ("5m", "1h", "6h", "3d")
    )


def _left(name: str, budget: float) -> Line:
    return Line(f"1 - avg_over_time(learnback:{name}:ratio_rate1h[30d]) / {budget}", "left")


SLO = Page(
    "learnback-slo",
    "learnback: SLO",
    (
        (
            "99 % of first tokens within 2 s",
            (
                Panel("Late", "percentunit", (
                    Line("learnback:first_token_late:ratio_rate5m", "over 5m"),
                    Line("learnback:first_token_late:ratio_rate1h", "over 1h"),)),
                Panel("Burn rate", "short", _burn("first_token_late", 0.01),
                      "1 spends the month's budget in a month; 14.4 over an hour pages."),
                Panel("Budget of 30 days", "percentunit", (_left("first_token_late", 0.01),),
                      "By the hours in which anybody asked, each alike."),
            ),
        ),
        (
            "99.9 % of calls don't fail by the server's doing",
            (
                Panel("Failed", "percentunit", (
                    Line("learnback:calls_failed:ratio_rate5m", "over 5m"),
                    Line("learnback:calls_failed:ratio_rate1h", "over 1h"),)),
                Panel("Burn rate", "short", _burn("calls_failed", 0.001),
                      "1 spends the month's budget in a month; 14.4 over an hour pages."),
                Panel("Budget of 30 days", "percentunit", (_left("calls_failed", 0.001),),
                      "By the hours in which anybody asked, each alike."),
            ),
        ),
        (
            "What is wrong now",
            (
                Panel("Alerts", "short", (
                    Line('count by (alertname, alertstate) (ALERTS{alertname=~"Learnback.+"})',
                         "{{alertname}} {{alertstate}}"),)),
                Panel("Feedback older than 15 minutes", "s", (
                    Line(_highest("learnback_feedback_oldest_age_seconds"), "oldest"),)),
                Panel("Checkpoints that serve", "short", (
                    Line("count by (checkpoint) (learnback_live_checkpoint_info)",
                         "{{checkpoint}}"),), "Servers by the checkpoint they answer by."),
            ),
        ),
    ),
)  # fmt: skip

PAGES = {"serving": SERVING, "learning": LEARNING, "slo": SLO}
"""All dashboards, by the name of their file."""
