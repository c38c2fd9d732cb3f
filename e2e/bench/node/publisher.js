// Peer: publishes persistent events on a confirm channel with at most 1000 unconfirmed, with amqplib.
// Rule: a confirm makes room for the next event.

import amqp from 'amqplib';

const OUTSTANDING = 1000;

const { RABBITMQ_URL, COMPANY: company } = process.env;
const count = Number(process.env.COUNT);
const connection = await amqp.connect(RABBITMQ_URL);
const channel = await connection.createConfirmChannel();
await channel.assertQueue(company, { durable: true, arguments: { 'x-queue-type': 'quorum' } });

let published = 0;
let confirmed = 0;
const options = { persistent: true, contentType: 'application/json' };

function publish() {
  while (published < count && published - confirmed < OUTSTANDING) {
    const event = {
      company,
      eventType: Math.random() < 0.5 ? 'buy' : 'sell',
      price: Math.round((50 + Math.random() * 500) * 100) / 100,
    };
    channel.sendToQueue(company, Buffer.from(JSON.stringify(event)), options, onConfirm);
    published += 1;
  }
}

function onConfirm(error) {
  if (error) throw error;
  confirmed += 1;
  publish();
  if (confirmed === count) {
    console.error(`confirmed=${count} seconds=${((performance.now() - start) / 1000).toFixed(3)}`);
    connection.close();
  }
}

const start = performance.now();
publish();
