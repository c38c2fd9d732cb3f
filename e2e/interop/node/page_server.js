// Sends the newest average of each company to every page, each 500 ms. PORT 0 lets the system choose; the port is printed.
const { MongoClient } = require('mongodb');
const { WebSocketServer } = require('ws');

const { MONGODB_URL, MONGODB_DB = 'stockmarket', PORT = '3000' } = process.env;

async function main() {
  const database = await MongoClient.connect(MONGODB_URL);
  const stocks = database.db(MONGODB_DB).collection('stocks');
  const server = new WebSocketServer({ port: Number(PORT) });
  server.on('listening', () => console.log(`port ${server.address().port}`));

  setInterval(async () => {
    const prices = await stocks.aggregate([
      { $sort: { _id: -1 } },
      { $group: { _id: '$company', newest: { $first: '$$ROOT' } } },
      { $replaceRoot: { newRoot: '$newest' } },
      { $sort: { company: 1 } },
    ]).toArray().catch(fail);
    const frame = JSON.stringify({ type: 'prices', prices });
    for (const page of server.clients) page.send(frame);
  }, 500);
}

function fail(error) {
  console.error(error);
  process.exit(1);
}

main().catch(fail);
