"""A LangChain tool that runs in the sandbox. A refusal is what it returns, so that the model can say so, or ask.

Needs `pip install langchain-core`, `cloned-proxy image build` once, and `cloned-proxy serve` in the project.
"""

from __future__ import annotations

import asyncio

from langchain_core.tools import tool

from cloned_proxy import DockerContainerRunner, SandboxError

TOOL = "cloned.mcp.web.fetch@v1"
runner = DockerContainerRunner()


@tool
async def fetch(url: str) -> str:
    """Fetches a page; what the policy does not allow is answered with the reason."""
    try:
        result = await runner.exec_async(TOOL, ["curl", "-sS", "--fail-with-body", "--", url], timeout=60)
    except SandboxError as error:
        return f"not run: {error}"
    return result.text if result.exit_code == 0 else f"not fetched: {result.stderr.decode(errors='replace').strip()}"


if __name__ == "__main__":
    with runner:
        print(asyncio.run(fetch.ainvoke({"url": "https://example.com/"})))
