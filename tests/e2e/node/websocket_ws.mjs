// npm's ws through https-proxy-agent: says each of its further arguments and prints what comes back.
import { HttpsProxyAgent } from "https-proxy-agent";
import WebSocket from "ws";

const [url, ...words] = process.argv.slice(2);
const socket = new WebSocket(url, { agent: new HttpsProxyAgent(process.env.HTTPS_PROXY) });
socket.on("message", (data) => (console.log(`got ${data}`), words.length ? socket.send(words.shift()) : socket.close(1000)));
socket.on("open", () => socket.send(words.shift()));
socket.on("close", (code, reason) => console.log(`closed ${code} ${reason}`));
socket.on("error", (error) => console.log(`failed ${error.message}`));
