"""Fleet: who has which policy in force, who is behind, what was refused, and how limits and leases are shared.

A replica is an `instance` here: the name that Prometheus gives to what it scrapes.
"""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from dashboards.kit import GREEN, ORANGE, RED, board, graph, grown, number, rows, steps

CHOSEN = '{instance=~"$instance"}'
NUMBER = "(cloned_proxy_fleet_policy_epoch * 1e9 + cloned_proxy_fleet_policy_version)"
"""Epoch and version as one number that grows with either."""
ENVELOPES = f"cloned_proxy_fleet_refused_total{CHOSEN}"
TOKENS = f"cloned_proxy_fleet_tokens_refused_total{CHOSEN}"
_RATE = "[$__rate_interval]"


def fleet() -> Dashboard:
    made = board(
        "cloned-proxy-fleet",
        "cloned-proxy: fleet",
        "Each replica with the policy that it has in force, what it refused, its share of limits and leases, and "
        "its decisions. The totals above are of the whole fleet.",
        labels=(("instance", "cloned_proxy_fleet_connected"),),
    )
    _state(made)
    _policy(made)
    _limits(made)
    _people_and_log(made)
    return made


def _state(made: Dashboard) -> None:
    made.with_panel(number("Replicas", "count(cloned_proxy_fleet_connected)", "Replicas that answer the scrape."))
    made.with_panel(
        number(
            "Cut off", "count(cloned_proxy_fleet_connected == 0) or vector(0)",
            "Replicas that do not reach the source of the policy: they serve the last one on.",
            levels=steps((None, GREEN), (1, ORANGE)),
        )
    )  # fmt: skip
    made.with_panel(
        number(
            "Behind", f"count({NUMBER} < scalar(max({NUMBER}))) or vector(0)",
            "Replicas with an older policy than another one; `cloned-proxy fleet status` says what stands in the way.",
            levels=steps((None, GREEN), (1, ORANGE)),
        )
    )  # fmt: skip
    made.with_panel(
        number(
            "Denying", "sum(cloned_proxy_fleet_denying)",
            "Replicas that deny everything, for want of a policy or of news about it; their `/readyz` says why.",
            levels=steps((None, GREEN), (1, RED)),
        )
    )  # fmt: skip
    made.with_panel(
        number(
            "Refused envelopes", "sum(increase(cloned_proxy_fleet_refused_total[$__range]))",
            "Policies that a replica did not accept, in the chosen time.", levels=steps((None, GREEN), (1, RED)),
        )
    )  # fmt: skip
    made.with_panel(
        number(
            "Log not shipped", "max(cloned_proxy_fleet_audit_lag_seconds)",
            "Age of the oldest entry of a log that the store has not taken yet.", unit="s",
            levels=steps((None, GREEN), (60, ORANGE), (300, RED)),
        )
    )  # fmt: skip


def _policy(made: Dashboard) -> None:
    tunnels = (
        f"sum by (instance) (cloned_proxy_open_tunnels{CHOSEN}) "
        f"or 0 * max by (instance) (cloned_proxy_fleet_connected{CHOSEN})"
    )
    made.with_panel(
        rows(
            "By replica",
            [
                (f"max by (instance) (cloned_proxy_fleet_policy_version{CHOSEN})", "Version"),
                (f"max by (instance) (cloned_proxy_fleet_policy_epoch{CHOSEN})", "Epoch"),
                (f"max by (instance) (cloned_proxy_fleet_policy_age_seconds{CHOSEN})", "Confirmed"),
                (f"max by (instance) (cloned_proxy_fleet_audit_lag_entries{CHOSEN})", "Entries not shipped"),
                (tunnels, "Open tunnels"),
            ],
            "`Confirmed`: the time since the source last said that this version is the newest.",
            units={"Confirmed": "s"},
        )
    )  # fmt: skip
    made.with_panel(
        graph(
            "Version in force", [(f"cloned_proxy_fleet_policy_version{CHOSEN}", "{{instance}}")],
            "Within the epoch. Lines that part are replicas that are behind.", unit="short",
        )
    )  # fmt: skip
    made.with_panel(
        graph(
            "Lag of the policy", [(f"cloned_proxy_fleet_policy_age_seconds{CHOSEN}", "{{instance}}")],
            "Time since the source last said that the version in force is the newest. It grows while a replica is "
            "cut off, and falls to nothing with each answer.", unit="s",
        )
    )  # fmt: skip
    made.with_panel(
        graph(
            "Decisions by replica",
            [(f"sum by (instance, verdict) (rate(cloned_proxy_decisions_total{CHOSEN}{_RATE}))",
              "{{instance}} {{verdict}}")],
            "Requests and tunnels decided. A replica without any gets no traffic from what stands before it.",
            unit="reqps",
        )
    )  # fmt: skip
    made.with_panel(
        rows(
            "Refused, by replica and reason",
            [
                (f"sum by (instance, reason) ({grown(ENVELOPES, '$__range')}) > 0", "Envelopes"),
                (f"sum by (instance, reason) ({grown(TOKENS, '$__range')}) > 0", "Tokens"),
            ],
            "In the chosen time. Envelopes are policies; `signature` and `fleet` say that somebody else writes into "
            "the store. Tokens are those that callers show; docs/fleet-identity.md has their reasons.",
            width=12, beside_graph=True,
        )
    )  # fmt: skip


def _limits(made: Dashboard) -> None:
    taken = grown(f"cloned_proxy_fleet_uses_total{CHOSEN}", "$__rate_interval")
    asked = grown(f"cloned_proxy_fleet_shares_asked_total{CHOSEN}", "$__rate_interval")
    made.with_panel(
        graph(
            "Shares of limits", [(f"cloned_proxy_fleet_share{CHOSEN}", "{{instance}} {{tool}} {{limit}}")],
            "What each replica may use of a tool's limit; all together are never more than the limit.", unit="short",
        )
    )  # fmt: skip
    made.with_panel(
        graph(
            "Leases taken",
            [(f"sum by (instance, result) ({taken})", "{{instance}} {{result}}")],
            "Uses of rules with `max_uses` that were asked for in the store. `not_counted`: the store was away or did "
            "not answer clearly, and the request was refused.", unit="short",
        )
    )  # fmt: skip
    made.with_panel(
        graph(
            "Questions for shares",
            [(f"sum by (instance, result) ({asked})", "{{instance}} {{result}}")],
            "`none`: the whole limit is given out. `store_away`: the replica goes on with what it has.", unit="short",
        )
    )  # fmt: skip


def _people_and_log(made: Dashboard) -> None:
    made.with_panel(
        rows(
            "Decisions of people",
            [("max by (replica, verdict) (cloned_proxy_fleet_decisions_total)", "Requests")],
            "Requests of tools that were decided, by the replica on which a person did it. Every replica counts all.",
            width=12, beside_graph=True,
        )
    )  # fmt: skip
    made.with_panel(
        graph(
            "Log not shipped yet", [(f"cloned_proxy_fleet_audit_lag_entries{CHOSEN}", "{{instance}}")],
            "Entries on record on the replica that the store has not taken. They are safe where they are.",
            unit="short", width=24,
        )
    )  # fmt: skip
