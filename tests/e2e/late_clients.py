"""Clients that send the proxy's credential only when they are asked for it, and what each needs to make one call.

A client is a function of where the call goes and who makes it; what came of it is judged by the canaries.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.net.clients import needed, proxy_environment


@dataclass(frozen=True, slots=True)
class Call:
    """One GET of `url`, by a tool whose credential is `user` and `token`, through 127.0.0.1:`port`."""

    url: str
    host: str
    user: str
    token: str
    port: int
    directory: Path
    """For what a client needs to write."""

    @property
    def environment(self) -> dict[str, str]:
        """As `cloned-proxy token` prints it."""
        url = f"http://{self.user.replace('@', '%40')}:{self.token}@127.0.0.1:{self.port}"
        return {**proxy_environment(url), "HOME": str(self.directory), "GIT_TERMINAL_PROMPT": "0"}


type Command = tuple[Sequence[str], Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class LateClient:
    name: str
    command: Callable[[Call], Command]
    """The command line and its environment."""
    schemes: tuple[str, ...] = ("https", "http")


def _git(call: Call) -> Command:
    return [needed("git"), "-c", "http.sslVerify=false", "ls-remote", call.url], call.environment


def _svn(call: Call) -> Command:
    options = {"host": "127.0.0.1", "port": call.port, "username": call.user, "password": call.token}
    words = [f"--config-option=servers:global:http-proxy-{name}={value}" for name, value in options.items()]
    trust = "--trust-server-cert-failures=unknown-ca,cn-mismatch,expired,not-yet-valid,other"
    return [needed("svn"), "ls", "--non-interactive", trust, *words, call.url], {"HOME": str(call.directory)}


def _lftp(call: Call) -> Command:
    """CONNECT without Host, and absolute form inside the TLS."""
    script = f"set net:max-retries 1; set net:timeout 10; set ssl:verify-certificate no; cat {call.url}"
    return [needed("lftp"), "-c", script], call.environment


def _w3m(call: Call) -> Command:
    return [needed("w3m"), "-dump", call.url], call.environment


def _ncat(call: Call) -> Command:
    path = call.url.partition("://")[2].partition("/")[2]
    request = f"GET /{path} HTTP/1.1\\r\\nHost: {call.host}\\r\\nConnection: close\\r\\n\\r\\n"
    proxy = f"--proxy 127.0.0.1:{call.port} --proxy-type http --proxy-auth {call.user}:{call.token}"
    return ["sh", "-c", f"printf '{request}' | {needed('ncat')} --ssl {proxy} {call.host} 443"], {}


_CHROMIUM: Final = """
import sys
from playwright.sync_api import sync_playwright
url, server, user, token, program = sys.argv[1:]
with sync_playwright() as playwright:
    proxy = {"server": server, "username": user, "password": token}
    browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"], proxy=proxy)
    page = browser.new_context(ignore_https_errors=True).new_page()
    print(page.goto(url).text())
    browser.close()
"""


def _chromium(call: Call) -> Command:
    words = [call.url, f"http://127.0.0.1:{call.port}", call.user, call.token, needed("chromium")]
    return [sys.executable, "-c", _CHROMIUM, *words], {"HOME": str(call.directory)}


_JAVA: Final = """
import java.net.*;
import java.net.http.*;
import javax.net.ssl.*;

public class Late {
    public static void main(String[] words) throws Exception {
        System.setProperty("jdk.http.auth.tunneling.disabledSchemes", "");
        TrustManager[] all = {new X509ExtendedTrustManager() {
            public void checkClientTrusted(java.security.cert.X509Certificate[] c, String a) {}
            public void checkServerTrusted(java.security.cert.X509Certificate[] c, String a) {}
            public void checkClientTrusted(java.security.cert.X509Certificate[] c, String a, Socket s) {}
            public void checkServerTrusted(java.security.cert.X509Certificate[] c, String a, Socket s) {}
            public void checkClientTrusted(java.security.cert.X509Certificate[] c, String a, SSLEngine e) {}
            public void checkServerTrusted(java.security.cert.X509Certificate[] c, String a, SSLEngine e) {}
            public java.security.cert.X509Certificate[] getAcceptedIssuers() {
                return new java.security.cert.X509Certificate[0];
            }
        }};
        SSLContext trusting = SSLContext.getInstance("TLS");
        trusting.init(null, all, null);
        Authenticator known = new Authenticator() {
            protected PasswordAuthentication getPasswordAuthentication() {
                return new PasswordAuthentication(words[2], words[3].toCharArray());
            }
        };
        InetSocketAddress proxy = new InetSocketAddress("127.0.0.1", Integer.parseInt(words[1]));
        if (words[4].equals("URL")) {
            Authenticator.setDefault(known);
            HttpsURLConnection.setDefaultSSLSocketFactory(trusting.getSocketFactory());
            URLConnection call = new URL(words[0]).openConnection(new Proxy(Proxy.Type.HTTP, proxy));
            System.out.println(new String(call.getInputStream().readAllBytes()));
        } else {
            HttpClient client = HttpClient.newBuilder().proxy(ProxySelector.of(proxy)).authenticator(known)
                .sslContext(trusting).version(HttpClient.Version.HTTP_1_1).build();
            HttpRequest request = HttpRequest.newBuilder(URI.create(words[0])).build();
            System.out.println(client.send(request, HttpResponse.BodyHandlers.ofString()).body());
        }
    }
}
"""


def _java(api: str) -> Callable[[Call], Command]:
    def command(call: Call) -> Command:
        if shutil.which("javac") is None:
            pytest.skip("no compiler for Java: apt-get install default-jdk-headless")
        source = call.directory / "Late.java"
        source.write_text(_JAVA)
        return [needed("java"), str(source), call.url, str(call.port), call.user, call.token, api], {}

    return command


def _big(program: str, words: Sequence[str]) -> Callable[[Call], Command]:
    """A client that is too much to install for one test."""

    def command(call: Call) -> Command:
        found = shutil.which(program)
        if found is None:
            pytest.skip(f"no {program}")
        return [found, *(word.replace("{url}", call.url) for word in words)], call.environment

    return command


LIGHT: Final = (
    LateClient("git", _git),
    LateClient("svn", _svn),
    LateClient("lftp", _lftp),
    # Over https it reads to the end of the connection, which the canaries keep.
    LateClient("w3m", _w3m, schemes=("http",)),
    LateClient("ncat", _ncat, schemes=("https",)),
    LateClient("Chromium by playwright", _chromium),
)
HEAVY: Final = (
    LateClient("Java URL", _java("URL")),
    LateClient("Java HttpClient", _java("client")),
    # A Host that names the proxy. Its buffer for the CONNECT target is cut by a long credential, so http alone.
    LateClient("ffmpeg", _big("ffmpeg", ["-v", "error", "-i", "{url}", "-f", "null", "-"]), schemes=("http",)),
)
