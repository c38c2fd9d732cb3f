// Peer: the page's server as a course would build it, with express, ws and mongodb.
// Rule: while somebody listens, the collection is aggregated each half second and the result goes to every socket; it is made into text once.

import { createServer } from 'node:http';
import { fileURLToPath } from 'node:url';
import express from 'express';
import { MongoClient } from 'mongodb';
import { WebSocket, WebSocketServer } from 'ws';

const BEAT = 500;

const { MONGODB_URL, MONGODB_DB, MONGODB_COLLECTION, PORT } = process.env;
const database = new MongoClient(MONGODB_URL);
const stocks = database.db(MONGODB_DB).collection(MONGODB_COLLECTION);
await database.connect();

async function newest() {
  const prices = await stocks.aggregate([
    { $sort: { _id: -1 } },
    { $group: { _id: '$company', newest: { $first: '$$ROOT' } } },
    { $replaceRoot: { newRoot: '$newest' } },
    { $sort: { company: 1 } },
  ]).toArray();
  return JSON.stringify({ type: 'prices', prices });
}

let frame = await newest();
const app = express();
// The page that ours serves, so that both send the same bytes.
app.get('/', (_, response) => response.sendFile(fileURLToPath(new URL('../../../workloads/src/liveview/page/index.html', import.meta.url))));
app.get('/api/prices', (_, response) => response.type('json').send(frame));
app.get('/api/companies/:symbol/windows', async ({ params, query }, response) => {
  const windows = await stocks.find({ company: params.symbol }).sort({ _id: -1 }).limit(Number(query.limit ?? 60)).toArray();
  response.json({ company: params.symbol, windows });
});
const server = createServer(app);
const sockets = new WebSocketServer({ server });
sockets.on('connection', socket => socket.send(frame));
setInterval(async () => {
  if (!sockets.clients.size) return;
  frame = await newest();
  for (const socket of sockets.clients) if (socket.readyState === WebSocket.OPEN) socket.send(frame);
}, BEAT);
server.listen(Number(PORT), '127.0.0.1', 4096, () => console.error(`serving on http://127.0.0.1:${server.address().port}`));
