// gRPC by @grpc/grpc-js, which finds the proxy in its environment: node grpc.mjs HOST:PORT CA
// Prints what comes of a unary call, of a conversation, and of a call that the policy does not allow.
import fs from "node:fs";
import grpc from "@grpc/grpc-js";

const [target, ca] = process.argv.slice(2);
const same = (bytes) => bytes;
const client = new grpc.Client(target, grpc.credentials.createSsl(fs.readFileSync(ca)));
const told = (error) => `${error.code} ${error.details}`;

await new Promise((done) => client.makeUnaryRequest("/test.Allowed/Unary", same, same, Buffer.from("abc"),
  (error, answer) => { console.log(error ? told(error) : answer.toString()); done(); }));
await new Promise((done) => {
  const call = client.makeBidiStreamRequest("/test.Allowed/Converse", same, same);
  let said = "";
  call.on("data", (piece) => { said += piece; });
  call.on("error", (error) => { console.log(told(error)); done(); });
  call.on("end", () => { console.log(said); done(); });
  for (const word of ["one", "two", "three"]) call.write(Buffer.from(word));
  call.end();
});
await new Promise((done) => client.makeUnaryRequest("/test.Other/Unary", same, same, Buffer.from("abc"),
  (error, answer) => { console.log(error ? told(error) : answer.toString()); done(); }));
client.close();
