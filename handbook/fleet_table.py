"""What attacks a fleet and what goes wrong around it, each with the test that tries it and the build that fails it."""

from __future__ import annotations

from typing import Final, NamedTuple

_FLEET: Final = "tests/fleet"
_REPLICA: Final = f"{_FLEET}/signed_policy/test_replica.py"
_BUILDS: Final = f"{_FLEET}/test_broken_builds.py"
_FAULTS: Final = f"{_FLEET}/test_broken_faults.py"
_LIMITS: Final = f"{_FLEET}/test_broken_limits.py"
_NETWORK: Final = f"{_FLEET}/test_network_faults.py"
_SHARES: Final = f"{_FLEET}/shares/test_odd_stores.py"
_USES: Final = f"{_FLEET}/leases/test_uses.py"
_RESUMING: Final = f"{_FLEET}/leases/test_broken_resuming.py"
_REQUESTS: Final = f"{_FLEET}/approvals/test_requests.py"
_LYING: Final = f"{_FLEET}/approvals/test_lying_requests.py"
_FULL: Final = f"{_FLEET}/approvals/test_full_of_requests.py"
_LINK: Final = f"{_FLEET}/link/test_link.py"
_PARTS: Final = f"{_FLEET}/link/test_store_faults.py"
_SHIP: Final = f"{_FLEET}/audit/test_audit_ship.py"
_CHANGED: Final = f"{_FLEET}/audit/test_audit_changed.py"
_BUNDLE: Final = f"{_FLEET}/audit/test_audit_bundle.py"
_TOKENS: Final = f"{_FLEET}/tokens/test_tool_tokens.py"
_PORCH: Final = "tests/proxy/gate/test_porch.py"
_COMMANDS: Final = "tests/cli/commands/fleet"
_BALANCER: Final = "tests/e2e/test_load_balancer.py"


class Claim(NamedTuple):
    """One attack, or one fault. Tests are `path::name`."""

    what: str
    tests: tuple[str, ...]
    broken: tuple[str, ...] = ()
    """Where the same is tried against a build without the guard, and must succeed."""


ATTACKS: Final = (
    Claim(
        "an envelope with a forged signature",
        (f"{_REPLICA}::test_what_the_store_says_is_believed_only_with_a_signature",),
        (f"{_BUILDS}::test_without_its_guard_the_attack_opens",),
    ),
    Claim(
        "an envelope of another fleet",
        (f"{_REPLICA}::test_what_the_store_says_is_believed_only_with_a_signature",),
        (f"{_BUILDS}::test_without_its_guard_the_attack_opens",),
    ),
    Claim(
        "an older envelope offered again, before and after a restart, or to a replica with an empty disk",
        (
            f"{_REPLICA}::test_an_older_policy_is_refused_for_ever",
            f"{_REPLICA}::test_a_fresh_replica_takes_nothing_older_than_its_floor_though_its_disk_is_empty",
        ),
        (
            f"{_FAULTS}::test_an_older_policy_that_is_offered_again_before_and_after_a_restart",
            f"{_BUILDS}::test_without_the_file_a_restart_forgets_what_was_newer",
        ),
    ),
    Claim(
        "another policy under a number that was in force",
        (f"{_REPLICA}::test_an_older_policy_is_refused_for_ever",),
        (f"{_BUILDS}::test_without_its_guard_the_attack_opens",),
    ),
    Claim(
        "an envelope whose YAML differs from its hash",
        (f"{_REPLICA}::test_a_policy_that_differs_from_its_hash_is_refused",),
        (f"{_BUILDS}::test_without_the_hash_another_policy_is_taken",),
    ),
    Claim(
        "a replica's key used to publish",
        (f"{_REPLICA}::test_the_key_of_a_replica_publishes_nothing",),
        (f"{_FAULTS}::test_a_policy_that_is_signed_with_the_key_of_a_replica",),
    ),
    Claim(
        "a store that lies about decisions: a stranger's, for another fleet or request, too wide, too long",
        (f"{_REQUESTS}::test_a_store_that_lies_opens_nothing",),
        (f"{_LIMITS}::test_a_decision_whose_signature_nobody_checks",),
    ),
    Claim(
        "a store that lies about counts of leases: begun by a stranger, an old word, a time that cannot be",
        (
            f"{_USES}::test_a_store_that_forgets_everything_gives_nothing_until_an_operator_says_so",
            "tests/fleet/leases/test_lying_counts.py::test_a_use_that_there_is_not_is_not_given",
        ),
        (
            f"{_RESUMING}::test_a_count_that_a_stranger_has_begun",
            f"{_RESUMING}::test_an_old_word_that_a_store_offers_again",
            f"{_RESUMING}::test_a_word_from_the_end_of_time",
            f"{_RESUMING}::test_a_word_by_the_time_of_a_store_that_lies",
        ),
    ),
    Claim(
        "a store that lies about who is in the fleet",
        (f"{_REPLICA}::test_a_report_that_is_made_up_uses_up_no_numbers_and_keeps_nobody_from_publishing",),
        (f"{_PARTS}::test_phantoms_are_no_replicas_and_leave_the_roster",),
    ),
    Claim(
        "a store that lies about the log",
        (
            f"{_CHANGED}::test_an_entry_that_was_changed_there",
            f"{_CHANGED}::test_a_log_that_was_made_up_shows_to_whoever_knows_the_key",
        ),
        (f"{_SHIP}::test_without_the_fence_an_entry_is_missing_after_the_store_has_lost_some",),
    ),
    Claim(
        "a store that freezes",
        (
            f"{_LINK}::test_a_frozen_store_costs_a_bounded_wait_and_no_later_answer_is_mistaken",
            f"{_REPLICA}::test_max_staleness_denies_until_the_store_is_heard_again",
        ),
        (f"{_FAULTS}::test_a_store_that_says_nothing_for_longer_than_may_be",),
    ),
    Claim(
        "a store that answers half, without end, or what is no answer",
        (
            f"{_LINK}::test_an_answer_is_kept_up_to_a_bound_and_the_next_one_is_right",
            f"{_LINK}::test_a_flood_of_messages_is_read_at_a_bounded_rate",
            f"{_PARTS}::test_a_policy_that_is_too_large_to_be_read_is_told_everywhere_and_nothing_else_stops",
            "tests/fleet/audit/test_without_end.py::test_pages_that_go_backwards_without_end_are_read_up_to_a_bound",
        ),
        (
            f"{_LINK}::test_a_message_that_is_too_large_ends_no_subscription_and_is_no_less_a_message",
            "tests/fleet/audit/test_without_end.py::test_a_page_that_does_not_go_backwards_is_the_last_one",
        ),
    ),
    Claim(
        "a store that loses its data: the policy",
        (
            f"{_REPLICA}::test_a_store_that_is_away_or_lost_its_data_opens_and_closes_nothing",
            f"{_REPLICA}::test_a_store_that_lost_its_data_does_not_begin_anew",
        ),
        (f"{_BUILDS}::test_without_the_file_a_restart_forgets_what_was_newer",),
    ),
    Claim(
        "a store that loses its data: limits and leases",
        (f"{_USES}::test_a_rule_whose_count_was_evicted_gives_nothing_until_an_operator_says_so",),
        (
            f"{_SHARES}::test_a_store_that_restarts_from_its_own_older_snapshot",
            f"{_SHARES}::test_two_stores_that_take_turns",
            f"{_LIMITS}::test_a_count_that_another_server_is_believed_to_have_whole",
        ),
    ),
    Claim(
        "ten thousand requests that nobody made, and the twin of a real one",
        (f"{_LYING}::test_requests_that_nobody_made_take_no_room_from_real_ones",),
        (
            f"{_FULL}::test_ten_thousand_small_requests_stop_no_other_one",
            f"{_FULL}::test_requests_of_one_replica_keep_those_of_another_from_nobody",
            f"{_FULL}::test_a_twin_that_was_offered_once_keeps_no_real_request_from_another_desk",
        ),
    ),
    Claim(
        "a JWT with `alg` none, HS256 with the public key, a wrong `aud`, a `kid` from elsewhere, and twenty more",
        (f"{_TOKENS}::test_no_byte_of_an_attacker_arrives",),
        (f"{_TOKENS}::test_an_attack_that_only_its_guard_stops",),
    ),
    Claim(
        "a PROXY header from a stranger",
        (f"{_PORCH}::test_a_listener_that_names_nobody_believes_nobody",),
        (f"{_PORCH}::test_a_header_from_a_stranger_is_never_believed",),
    ),
    Claim(
        "an export of the log with entries or receipts changed, left out, added or moved",
        (f"{_BUNDLE}::test_what_was_done_to_an_export_is_said",),
        (f"{_BUNDLE}::test_a_forger_who_hashes_anew_passes_where_nothing_is_signed",),
    ),
    Claim(
        "a replica's password used to write policies, settings of the store, other keys",
        (
            f"{_COMMANDS}/test_fleet_rights.py::test_a_replica_can_write_no_policy_and_reach_nothing_else",
            f"{_COMMANDS}/test_fleet_rights.py::test_the_lines_of_the_page_are_enough_for_all_that_a_fleet_does",
        ),
    ),
)

FAULTS: Final = (
    Claim(
        "the store is killed for ten minutes under load: no request fails but those of exact leases, which say so",
        (f"{_USES}::test_without_a_store_no_use_is_given_and_the_reason_says_so",),
        (
            f"{_FAULTS}::test_ten_minutes_without_a_store_under_load",
            f"{_FAULTS}::test_an_exact_lease_without_a_store_in_a_build_that_counts_by_itself",
        ),
    ),
    Claim(
        "failover to a follower of the store that lags",
        (f"{_NETWORK}::test_a_failover_to_a_follower_that_lags_takes_nothing_back",),
        (f"{_FAULTS}::test_an_older_policy_that_is_offered_again_before_and_after_a_restart",),
    ),
    Claim(
        "half of the network is cut, in network namespaces",
        (f"{_NETWORK}::test_half_of_the_network_is_cut_and_serves_on",),
        (f"{_NETWORK}::test_half_of_the_network_is_cut_and_serves_on",),
    ),
    Claim(
        "the clock of one host is off by an hour",
        (
            f"{_REPLICA}::test_the_clock_of_a_host_accepts_and_refuses_nothing",
            f"{_REQUESTS}::test_it_ends_everywhere_on_time_whatever_the_clocks_say",
        ),
        (
            f"{_FAULTS}::test_a_host_whose_clock_is_an_hour_off",
            f"{_SHARES}::test_a_wall_clock_of_the_store_that_is_set_forward",
        ),
    ),
    Claim(
        "the disk is full at the moment of a new version",
        (f"{_NETWORK}::test_a_full_disk_keeps_no_version_from_acting",),
        (f"{_FAULTS}::test_a_disk_that_is_full_at_the_moment_at_which_something_is_taken_back",),
    ),
    Claim(
        "two hundred publishes in a minute",
        (
            f"{_REPLICA}::test_two_hundred_publishes_end_with_the_last",
            f"{_PARTS}::test_news_that_could_not_be_read_is_read_again",
        ),
        (f"{_FAULTS}::test_two_hundred_publishes_in_a_build_that_hears_no_news",),
    ),
    Claim(
        "a replica is killed while limits and leases are in use",
        (
            f"{_USES}::test_a_killed_process_gives_no_use_twice",
            f"{_FLEET}/shares/test_shares.py::test_processes_that_are_killed_leave_no_more_than_the_limit",
        ),
        (f"{_LIMITS}::test_limits_that_each_replica_takes_for_its_own",),
    ),
    Claim(
        "one of three replicas behind a load balancer is killed, or all are restarted one after the other",
        (
            f"{_BALANCER}::test_one_that_is_killed_takes_its_own_flows_alone",
            f"{_BALANCER}::test_a_rolling_restart_loses_no_flow",
            f"{_BALANCER}::test_a_stop_loses_no_flow_where_the_balancer_tries_nobody_twice",
        ),
        (
            f"{_BALANCER}::test_a_stop_loses_no_flow_where_the_balancer_tries_nobody_twice",
            f"{_BALANCER}::test_a_stop_cuts_no_flow_that_is_open",
        ),
    ),
)


def row(claim: Claim) -> tuple[str, str, str]:
    """The cells of a claim's row: links to the files, with the names of the tests."""
    return claim.what, _links(claim.tests), _links(claim.broken) or "no guard of ours to take out"


def _links(tests: tuple[str, ...]) -> str:
    places = [test.partition("::") for test in tests]
    return ", ".join(f"[{name.removeprefix('test_').replace('_', ' ')}](../{path})" for path, _, name in places)
