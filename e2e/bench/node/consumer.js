// Peer: averages each 1000 events into one document, with amqplib and mongodb.
// Rule: a window is acknowledged after its insert is answered; the inserts follow one another, so an ack never covers one under way.

import amqp from 'amqplib';
import { MongoClient } from 'mongodb';

const WINDOW = 1000;
const PREFETCH = 2000;

const { RABBITMQ_URL, MONGODB_URL, MONGODB_DB, MONGODB_COLLECTION, QUEUE_NAME: company } = process.env;
const count = Number(process.env.COUNT);
const database = new MongoClient(MONGODB_URL, { writeConcern: { w: 'majority', journal: true } });
const stocks = database.db(MONGODB_DB).collection(MONGODB_COLLECTION);
await database.connect();
const connection = await amqp.connect(RABBITMQ_URL);
const channel = await connection.createChannel();
await channel.assertQueue(company, { durable: true, arguments: { 'x-queue-type': 'quorum' } });
await channel.prefetch(PREFETCH);

let taken = 0;
let total = 0;
let settled = Promise.resolve();

async function settle(average, last, isEnd) {
  await stocks.insertOne({ company, avgPrice: average });
  channel.ack(last, true);
  if (isEnd) {
    await channel.close();
    await connection.close();
    await database.close();
  }
}

await channel.consume(company, (message) => {
  total += JSON.parse(message.content).price;
  taken += 1;
  if (taken % WINDOW === 0) {
    const average = Math.round((total / WINDOW) * 100) / 100;
    const isEnd = taken === count;
    settled = settled.then(() => settle(average, message, isEnd));
    total = 0;
  }
});
console.error('consuming');
