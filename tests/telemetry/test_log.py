from __future__ import annotations

import json

import pytest
import structlog

from cloned_proxy.telemetry.log import LogFormat, configure_logging


@pytest.mark.parametrize("style", ["json", "console"])
def test_a_logged_fault_tells_its_place_and_not_the_values_in_it(
    style: LogFormat, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(style)

    def fails(token: str) -> None:
        raise ValueError(len(token))

    try:
        fails("tok" + "en-of-a-tool")
    except ValueError:
        structlog.get_logger().exception("it failed")
    told = capsys.readouterr().err
    structlog.reset_defaults()
    assert "test_log.py" in told
    assert "token-of-a-tool" not in told
    if style == "json":
        assert json.loads(told)["exception"][0]["exc_value"] == "15"
