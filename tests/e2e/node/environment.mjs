// The built-in fetch; Node itself reads the proxy variables when NODE_USE_ENV_PROXY is set.
const answer = await fetch(process.argv[2]);
if (!answer.ok) throw new Error(`status ${answer.status}`);
console.log(await answer.text());
