// The bench's server on `ws`: each message goes to all clients, the sender included, as its README shows it.
// Arguments: the folder of npm's packages, and the port of loopback. No pings, no compression (its default).
"use strict";

const [modules, port] = process.argv.slice(2);
const { WebSocket, WebSocketServer } = require(`${modules}/ws`);

const server = new WebSocketServer({ host: "127.0.0.1", port: Number(port), perMessageDeflate: false });

server.on("connection", (socket) => {
  socket.on("error", () => {}); // a client that goes away ends alone
  socket.on("message", (data, isBinary) => {
    for (const client of server.clients) {
      if (client.readyState === WebSocket.OPEN) client.send(data, { binary: isBinary });
    }
  });
});
