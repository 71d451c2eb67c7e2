// fetch through a proxy agent that reads HTTP_PROXY and HTTPS_PROXY.
import { EnvHttpProxyAgent, fetch } from "undici";

const answer = await fetch(process.argv[2], { dispatcher: new EnvHttpProxyAgent() });
if (!answer.ok) throw new Error(`status ${answer.status}`);
console.log(await answer.text());
