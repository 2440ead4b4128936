// The bench's server on `socket.io` as one of several processes: its Redis Streams adapter joins them.
// Arguments: the folder of npm's packages, the port of loopback, and that of Redis. Settings as in the relay of
// one process; the adapter has its own, but for the length of the stream: it must hold all that is in flight,
// because a reader that the trimming overtakes loses entries.
"use strict";

const [modules, port, redisPort] = process.argv.slice(2);
const { createServer } = require("http");
const { Server } = require(`${modules}/socket.io`);
const { createAdapter } = require(`${modules}/@socket.io/redis-streams-adapter`);
const { createClient } = require(`${modules}/redis`);

const DAY_MS = 24 * 60 * 60 * 1000;
const STREAM_ENTRIES = 100_000;

async function main() {
  const redis = createClient({ url: `redis://127.0.0.1:${redisPort}` });
  await redis.connect();
  const http = createServer();
  const io = new Server(http, {
    transports: ["websocket"],
    perMessageDeflate: false,
    pingInterval: DAY_MS,
    pingTimeout: DAY_MS,
    serveClient: false,
    adapter: createAdapter(redis, { maxLen: STREAM_ENTRIES }),
  });
  io.on("connection", (socket) => {
    socket.on("m", (text) => io.emit("m", text));
  });
  http.listen(Number(port), "127.0.0.1");
}

main();
