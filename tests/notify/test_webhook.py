"""The webhook against a real receiver: signed as the form has it, tried again within bounds, silent about secrets."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
from collections.abc import Iterator

import pytest
from pydantic import ValidationError
from standardwebhooks import Webhook

from cloned_proxy.notify import webhook
from cloned_proxy.notify.webhook import Receiver as Sender
from cloned_proxy.notify.webhook import WebhookError, signed_headers, signer
from cloned_proxy.store.settings.notify_settings import NotifySettings, WebhookSettings
from cloned_proxy.store.vault.vault_key import VaultError
from tests.notify.receiver import SECRET, Receiver
from tests.notify.test_notice import denial

NOW = 1_800_000_000.7
SETTINGS = "${vault:notify.webhook}"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    yield found
    found.close()


def sender(url: str, secret: str = SECRET, pauses: tuple[float, ...] = (0.0, 0.0, 0.0), at: float = NOW) -> Sender:
    settings = WebhookSettings(url=url, secret=SETTINGS)
    values = {"notify.webhook": secret, "hook.url": url}
    return Sender(settings, values.__getitem__, clock=lambda: at, pauses=pauses)


async def test_a_receiver_can_verify_it_with_the_forms_own_library(receiver: Receiver) -> None:
    import time  # noqa: PLC0415  the library compares with the real clock

    await sender(receiver.url, at=time.time()).send(denial())
    ((headers, body),) = receiver.seen
    assert Webhook(SECRET).verify(body, headers) == json.loads(body)
    assert headers["webhook-id"] == "msg_denial_d1"
    assert headers["content-type"] == "application/json"
    with pytest.raises(Exception, match="No matching signature"):
        Webhook(SECRET).verify(body + b" ", headers)


def test_the_signature_is_what_the_specification_says() -> None:
    """Computed here from its text: base64(HMAC-SHA256(key, id.timestamp.body)). The last line is a published vector."""
    body = b'{"test": 2432232314}'
    headers = signed_headers(signer(SECRET), "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    signed = b"msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330." + body
    wanted = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{wanted}"
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("status", [500, 503, 429, 408])
async def test_a_fault_that_may_pass_is_tried_again(status: int) -> None:
    receiver = Receiver(status, status)
    await sender(receiver.url).send(denial())
    receiver.close()
    assert len(receiver.seen) == 3
    assert len({headers["webhook-id"] for headers, _ in receiver.seen}) == 1, "so that a receiver knows a repetition"


@pytest.mark.parametrize("status", [400, 401, 404, 410, 301])
async def test_a_final_no_is_not(status: int) -> None:
    receiver = Receiver(status)
    with pytest.raises(WebhookError, match=str(status)):
        await sender(receiver.url).send(denial())
    receiver.close()
    assert len(receiver.seen) == 1


async def test_the_attempts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    receiver = Receiver(*(500,) * 9)
    with pytest.raises(WebhookError, match="answered 500"):
        await sender(receiver.url).send(denial())
    receiver.close()
    assert len(receiver.seen) == 4
    assert sum(webhook.PAUSES) < 60


async def test_a_redirect_leads_nowhere(receiver: Receiver) -> None:
    """Who answers for the receiver must not be able to send the message, signature included, to somebody else."""
    first = Receiver(307, location=receiver.url)
    with pytest.raises(WebhookError, match="307"):
        await sender(first.url).send(denial())
    first.close()
    assert receiver.seen == []


async def test_a_proxy_variable_is_not_obeyed(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    await sender(receiver.url, pauses=()).send(denial())
    assert len(receiver.seen) == 1


async def test_one_that_never_answers_is_given_up(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "_SECONDS", 0.2)
    receiver.silent = True
    with pytest.raises(WebhookError, match="cannot be reached"):
        await sender(receiver.url, pauses=()).send(denial())


async def test_nothing_that_is_secret_is_told() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/services/T0/SECRETPATH"
        with pytest.raises(WebhookError) as caught:
            await sender(url, pauses=()).send(denial())
    assert "SECRETPATH" not in str(caught.value)
    for wrong in ("not base64!", "whsec_c2hvcnQ=", ""):
        with pytest.raises(WebhookError, match="at least 24 bytes") as caught:
            await sender(url, secret=wrong).send(denial())
        assert not wrong or wrong not in str(caught.value)


async def test_a_url_from_the_vault_is_checked_when_it_is_known(receiver: Receiver) -> None:
    settings = WebhookSettings(url="${vault:hook.url}", secret=SETTINGS)
    values = {"notify.webhook": SECRET, "hook.url": receiver.url}
    await Sender(settings, values.__getitem__, clock=lambda: NOW, pauses=()).send(denial())
    assert len(receiver.seen) == 1
    values["hook.url"] = "http://example.com/SECRETPATH"
    with pytest.raises(WebhookError, match="in the clear") as caught:
        await Sender(settings, values.__getitem__, clock=lambda: NOW, pauses=()).send(denial())
    assert "SECRETPATH" not in str(caught.value)


async def test_a_vault_without_the_secret_is_told(receiver: Receiver) -> None:
    def nothing(name: str) -> str:
        raise VaultError(f"holds no {name!r}")

    settings = WebhookSettings(url=receiver.url, secret=SETTINGS)
    with pytest.raises(WebhookError, match=r"holds no 'notify\.webhook'"):
        await Sender(settings, nothing, clock=lambda: NOW).send(denial())
    assert receiver.seen == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"webhook": {"url": "http://example.com/", "secret": SETTINGS}}, "in the clear"),
        ({"webhook": {"url": "ftp://example.com/", "secret": SETTINGS}}, "not the URL"),
        ({"webhook": {"url": "https://exam ple.com/", "secret": SETTINGS}}, "not the URL"),
        ({"webhook": {"url": "https://example.com/", "secret": "whsec_literal"}}, "kept in the vault"),
        ({"webhook": {"url": "https://example.com/"}}, "Field required"),
        ({"events": []}, "at least 1 item"),
        ({"events": ["everything"]}, "denial"),
        ({"period": 0}, "greater than or equal"),
    ],
)
def test_settings_are_checked(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        NotifySettings.model_validate(settings)


def test_it_is_off_by_default() -> None:
    assert not NotifySettings().wanted
