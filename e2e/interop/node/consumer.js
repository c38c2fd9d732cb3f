// Averages every 1000 trades of QUEUE_NAME into one document, then acknowledges them. SIGTERM ends it after the document under way.
const amqp = require('amqplib');
const { MongoClient } = require('mongodb');

const { RABBITMQ_URL, QUEUE_NAME, MONGODB_URL, MONGODB_DB = 'stockmarket' } = process.env;
const BATCH = 1000;

async function main() {
  const database = await MongoClient.connect(MONGODB_URL);
  const stocks = database.db(MONGODB_DB).collection('stocks');
  const connection = await amqp.connect(RABBITMQ_URL);
  const channel = await connection.createChannel();
  await channel.assertQueue(QUEUE_NAME, { durable: false });
  await channel.prefetch(BATCH);

  let prices = [];
  let storing = Promise.resolve();

  async function store(average, last) {
    await stocks.insertOne({ company: QUEUE_NAME, avgPrice: average });
    channel.ack(last, true);
    console.log(`stored ${average}`);
  }

  await channel.consume(QUEUE_NAME, (message) => {
    prices.push(JSON.parse(message.content.toString()).price);
    if (prices.length < BATCH) return;
    const average = Math.round((prices.reduce((sum, price) => sum + price, 0) / BATCH) * 100) / 100;
    prices = [];
    storing = store(average, message).catch(fail);
  });
  console.log('consuming');

  process.once('SIGTERM', async () => {
    await storing;
    await channel.close();
    await connection.close();
    await database.close();
  });
}

function fail(error) {
  console.error(error);
  process.exit(1);
}

main().catch(fail);
