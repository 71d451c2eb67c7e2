// The WebSocket of Node itself, with NODE_USE_ENV_PROXY: says each of its further arguments and prints what comes back.
const [url, ...words] = process.argv.slice(2);
const socket = new WebSocket(url);
socket.onmessage = ({ data }) => (console.log(`got ${data}`), words.length ? socket.send(words.shift()) : socket.close(1000));
socket.onopen = () => socket.send(words.shift());
socket.onclose = ({ code, reason }) => console.log(`closed ${code} ${reason}`);
socket.onerror = ({ message }) => console.log(`failed ${message}`);
