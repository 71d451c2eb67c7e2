"""The committed files: what the generator writes, readable at 1280 px, and accepted by promtool."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from cloned_proxy.share import share_path
from cloned_proxy.telemetry.fleet_metrics import FleetMetrics
from cloned_proxy.telemetry.identity_metrics import IdentityMetrics
from cloned_proxy.telemetry.share_metrics import ShareMetrics
from cloned_proxy.telemetry.shipping_metrics import ShippingMetrics
from tests.dashboards.panels import DASHBOARDS, document, targets
from tests.dashboards.scene import StandIn
from tests.dashboards.server import need, running
from tests.telemetry.test_metrics import CONTRACT

HERE = Path(__file__).resolve().parent


def of_a_replica() -> set[str]:
    """What a replica measures besides."""
    registry = CollectorRegistry()
    FleetMetrics(registry, ())
    ShareMetrics(registry)
    ShippingMetrics(registry)
    IdentityMetrics(registry, (), ())
    return {f"{each.name}_total" if each.type == "counter" else each.name for each in registry.collect()}


@pytest.mark.checkout
def test_the_committed_dashboards_are_what_the_generator_writes() -> None:
    from dashboards.__main__ import generated  # noqa: PLC0415  only a checkout has the generator

    made = generated()
    assert set(made) == {f"{name}.json" for name in DASHBOARDS}
    for name, content in made.items():
        assert share_path("dashboards", name).read_text() == content, f"{name}: run `make dashboards`"


def test_dashboards_and_alerts_name_only_metrics_that_exist() -> None:
    known = set(CONTRACT) | of_a_replica()
    texts = [target.expr for target in targets()] + [rule["expr"] for rule in alerts()]
    named = {name for text in texts for name in re.findall(r"cloned_proxy_\w+", text)}
    assert {re.sub(r"_bucket$", "", name) for name in named} - known == set()
    assert len(named) > 10


@pytest.mark.parametrize("dashboard", DASHBOARDS)
def test_a_dashboard_fits_the_screen_and_explains_itself(dashboard: str) -> None:
    board = document(dashboard)
    assert board["uid"]
    variables = [variable["name"] for variable in board["templating"]["list"]]
    assert variables[0] == "datasource"
    for panel in board["panels"]:
        title, place = panel["title"], panel["gridPos"]
        assert place["x"] + place["w"] <= 24, title
        assert place["w"] >= 4, f"{title}: narrower than 200 px at 1280"
        assert panel["description"], title
        assert panel["datasource"]["uid"] in {"${datasource}", "cloned-proxy-api"}, title
        unit = panel["fieldConfig"]["defaults"].get("unit") if panel["type"] not in {"table", "state-timeline"} else "-"
        assert unit or panel["options"]["yAxis"]["unit"], title
        for target in panel["targets"]:
            text = target["expr"] if "expr" in target else target["url"] + target["root_selector"]
            used = set(re.findall(r"\$\{?(\w+)", text)) - {"__rate_interval", "__range", "__from", "contains"}
            assert used <= set(variables), title


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load(share_path("dashboards", "rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_every_alert_says_how_bad_it_is_and_what_to_do_first() -> None:
    for rule in alerts():
        assert rule["labels"] in ({"severity": "critical"}, {"severity": "warning"}), rule
        notes = rule["annotations"]
        assert notes["summary"], rule
        assert notes["runbook"], rule


def test_every_alert_fires_and_clears_in_simulated_time(tmp_path: Path) -> None:
    tested = yaml.safe_load((HERE / "alerts.yml").read_text())["tests"]
    cases = [case for group in tested for case in group["alert_rule_test"]]
    for rule in alerts():
        seen = [bool(case["exp_alerts"]) for case in cases if case["alertname"] == rule["alert"]]
        assert set(seen) == {True, False}, rule["alert"]
    for source in (share_path("dashboards", "rules.yml"), HERE / "alerts.yml"):
        shutil.copy(source, tmp_path)
    done = subprocess.run(
        [need("promtool"), "test", "rules", "alerts.yml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_the_scrape_configuration() -> None:
    config = share_path("dashboards", "prometheus.yml")
    done = subprocess.run(
        [need("promtool"), "check", "config", config], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_denied_call_is_in_the_dashboards_within_15_seconds() -> None:
    """Two steps of 5 s at worst, a scrape and an evaluation; a faster machine than ours cannot make them longer."""
    config = yaml.safe_load(share_path("dashboards", "prometheus.yml").read_text(encoding="utf-8"))
    waits = [config["global"][name] for name in ("scrape_interval", "evaluation_interval")]
    (job,) = (job for job in config["scrape_configs"] if job["job_name"] == "cloned-proxy")
    assert [int(wait.removesuffix("s")) for wait in waits] == [5, 5]
    assert not {"scrape_interval", "metric_relabel_configs"} & set(job)


def test_nothing_is_scraped_that_nobody_started_and_no_alert_pends(tmp_path: Path) -> None:
    proxy, local_ai = StandIn(), StandIn()
    try:
        with running(tmp_path, {"cloned-proxy": proxy.port}) as prometheus:
            prometheus.scraped({"cloned-proxy"})
            assert [(labels["job"], value) for labels, value in prometheus.values("up")] == [("cloned-proxy", 1)]
            # Hurried as they are here, the alerts may take the time before the first scrape for an absence.
            prometheus.wait(lambda: not prometheus.values("ALERTS"), "no alert, pending or firing")
            (tmp_path / "targets").mkdir()
            (tmp_path / "targets" / "localai.yml").write_text(f'- targets: ["127.0.0.1:{local_ai.port}"]\n')
            prometheus.scraped({"localai"})
    finally:
        proxy.close()
        local_ai.close()


@pytest.mark.checkout
@pytest.mark.parametrize("dashboard", DASHBOARDS)
def test_each_dashboard_has_a_small_picture_that_the_docs_show(dashboard: str) -> None:
    picture = share_path("dashboards", "pictures", f"{dashboard}.png").read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(picture[16:20], "big") == 1280
    assert len(picture) < 150_000, "run `make pictures`"
    assert f"(../dashboards/pictures/{dashboard}.png)" in share_path("docs", "monitoring.md").read_text()
