// The official TypeScript SDK with the entry of a client's file: starts the server, lists its tools, calls one, closes.
import { pathToFileURL } from "node:url";

const [modules, entry, tool] = process.argv.slice(2);
const sdk = (path) => import(pathToFileURL(`${modules}/@modelcontextprotocol/sdk/dist/esm/${path}`).href);
const { Client } = await sdk("client/index.js");
const { StdioClientTransport } = await sdk("client/stdio.js");

const errors = [];
const client = new Client({ name: "test", version: "1" });
client.onerror = (error) => errors.push(String(error));
await client.connect(new StdioClientTransport({ ...JSON.parse(entry), stderr: "ignore" }));
const { tools } = await client.listTools();
const answer = await client.callTool({ name: tool, arguments: tool === "echo" ? { message: "hi" } : {} });
await client.close();
console.log(JSON.stringify({ tools: tools.map(({ name }) => name), answer, errors }));
