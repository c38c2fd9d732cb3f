// Publishes COUNT synthetic trades of COMPANY, plainly: no queue arguments, no properties, no confirms.
const amqp = require('amqplib');

const { RABBITMQ_URL, COMPANY, COUNT } = process.env;

async function main() {
  const connection = await amqp.connect(RABBITMQ_URL);
  const channel = await connection.createChannel();
  await channel.assertQueue(COMPANY, { durable: false });
  for (let sent = 0; sent < Number(COUNT); sent += 1) {
    const event = {
      company: COMPANY,
      eventType: Math.random() < 0.5 ? 'buy' : 'sell',
      price: Math.round((50 + Math.random() * 500) * 100) / 100,
    };
    if (!channel.sendToQueue(COMPANY, Buffer.from(JSON.stringify(event)))) {
      await new Promise((resolve) => channel.once('drain', resolve));
    }
  }
  await channel.close();
  await connection.close();
  console.log(`published ${COUNT}`);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
