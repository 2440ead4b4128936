// The bench's server on `socket.io`: each message goes to all clients, the sender included.
// Arguments: the folder of npm's packages, and the port of loopback. WebSocket alone, and no pings while it runs.
"use strict";

const [modules, port] = process.argv.slice(2);
const { createServer } = require("http");
const { Server } = require(`${modules}/socket.io`);

const DAY_MS = 24 * 60 * 60 * 1000;
const http = createServer();
const io = new Server(http, {
  transports: ["websocket"],
  perMessageDeflate: false,
  pingInterval: DAY_MS,
  pingTimeout: DAY_MS,
  serveClient: false,
});

io.on("connection", (socket) => {
  socket.on("m", (text) => io.emit("m", text));
});

http.listen(Number(port), "127.0.0.1");
