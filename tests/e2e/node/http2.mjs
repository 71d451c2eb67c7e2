// HTTP/2 by Node's own module, through the proxy: node http2.mjs PROXY URL... prints "<status> <body>" for each.
import http from "node:http";
import http2 from "node:http2";
import tls from "node:tls";

const [proxy, ...urls] = process.argv.slice(2);
const { hostname, port } = new URL(proxy);
const { host, origin, hostname: name } = new URL(urls[0]);
const asked = http.request({ hostname, port, method: "CONNECT", path: host, headers: { host } });
asked.end();
const socket = await new Promise((resolve, reject) => {
  asked.on("connect", (response, found) => (response.statusCode === 200 ? resolve(found) : reject(response.statusCode)));
  asked.on("error", reject);
});
const secure = tls.connect({ socket, servername: name, ALPNProtocols: ["h2"] });
const client = http2.connect(origin, { createConnection: () => secure });
const answers = urls.map((url) => new Promise((resolve, reject) => {
  const stream = client.request({ ":method": "POST", ":path": new URL(url).pathname });
  let status = 0, body = "";
  stream.on("response", (headers) => { status = headers[":status"]; });
  stream.setEncoding("utf8");
  stream.on("data", (piece) => { body += piece; });
  stream.on("end", () => resolve(`${status} ${body.trim()}`));
  stream.on("error", reject);
  stream.end("hello from node");
}));
for (const answer of await Promise.all(answers)) console.log(answer);
client.close();
