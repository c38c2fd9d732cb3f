// A stock-liveview of the test's own, on a database of the test's own, with a cable at each side that can be pulled.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer, connect } from 'node:net';
import { randomBytes } from 'node:crypto';
import { MongoClient, ObjectId } from 'mongodb';

const PROGRAM = process.env.STOCK_LIVEVIEW;
const DATABASE = process.env.STOCK_TEST_MONGODB_URL;

// Forwards a port; pulled, nothing passes and nothing ends, as with a network that is gone: what was sent waits.
class Cable {
  #ends = new Set();
  #pulled = false;

  async to(port) {
    this.target = port;
    this.server = createServer(near => {
      const far = connect(this.target, '127.0.0.1');
      near.pipe(far).pipe(near);
      for (const [end, other] of [[near, far], [far, near]]) {
        this.#ends.add(end);
        end.on('error', () => {}).on('close', () => { this.#ends.delete(end); other.destroy(); });
        if (this.#pulled) end.cork(), end.pause();
      }
    }).listen(0, '127.0.0.1');
    await once(this.server, 'listening');
    this.port = this.server.address().port;
    return this;
  }

  pull() { this.#pulled = true; this.#ends.forEach(end => { end.cork(); end.pause(); }); }

  mend() { this.#pulled = false; this.#ends.forEach(end => { end.uncork(); end.resume(); }); }

  close() { this.server.close(); this.#ends.forEach(end => end.destroy()); }
}

export class Liveview {
  static async start({ settings = {} } = {}) {
    const liveview = new Liveview();
    liveview.settings = settings;
    liveview.client = await MongoClient.connect(DATABASE);
    liveview.name = `browser-${randomBytes(4).toString('hex')}`;
    liveview.database = liveview.client.db(liveview.name);
    liveview.windows = liveview.database.collection('stocks');
    await liveview.windows.createIndex({ company: 1, _id: -1 });
    liveview.toDatabase = await new Cable().to(Number(new URL(DATABASE).port));
    await liveview.run('liveview-7d9c4-one');
    liveview.toBrowser = await new Cable().to(liveview.port);
    liveview.url = `http://127.0.0.1:${liveview.toBrowser.port}/`;
    return liveview;
  }

  // Starts the program; one that died has a successor on another port, as a pod has.
  async run(pod) {
    this.process = spawn(PROGRAM, { stdio: ['ignore', 'ignore', 'pipe'], env: {
      MONGODB_URL: `mongodb://127.0.0.1:${this.toDatabase.port}/?directConnection=true`, MONGODB_DB: this.name,
      PORT: String(await free()), POD_NAME: pod, SHUTDOWN_GRACE: '100', SHUTDOWN_SPREAD: '300', ...this.settings } });
    let log = '', port;
    this.process.stderr.on('data', text => { log += text; });
    const deadline = Date.now() + 30_000;
    for (;;) {
      port = log.match(/serving on http:\/\/[^:]+:(\d+)/)?.[1];
      if (port && (await fetch(`http://127.0.0.1:${port}/readyz`).catch(() => ({}))).ok) break;
      if (Date.now() > deadline || this.process.exitCode !== null) throw new Error(`stock-liveview does not serve:\n${log}`);
      await new Promise(done => setTimeout(done, 50));
    }
    this.port = Number(port);
    if (this.toBrowser) this.toBrowser.target = this.port;
  }

  async kill(signal = 'SIGKILL') {
    if (this.process.exitCode !== null || this.process.signalCode !== null) return;
    this.process.kill(signal);
    await once(this.process, 'exit');
  }

  async insert(...windows) { await this.windows.insertMany(windows); }

  // A lease as stock-consumer keeps it, over since `ago` milliseconds.
  async lease(company, ago) {
    const until = new Date(Date.now() - ago);
    await this.database.collection('stocks.leases').replaceOne({ _id: company }, { holder: 'c', pod: 'p', until }, { upsert: true });
  }

  async end() {
    await this.kill();
    this.toBrowser.close();
    this.toDatabase.close();
    await this.database.dropDatabase();
    await this.client.close();
  }
}

async function free() {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  await new Promise(done => server.close(done));
  return port;
}

// Windows as they are stored: a walk of averages, `seconds` apart, the last `ago` milliseconds ago.
export function walk(company, length, { seconds = 2, price = 300, ago = 0, number = 0, random = generator(company) } = {}) {
  const end = Date.now() - ago;
  return Array.from({ length }, (_, index) => {
    price = Math.max(20, price * (1 + (random() - 0.495) * 0.02));
    const at = end - (length - 1 - index) * seconds * 1000, spread = price * (0.01 + random() * 0.02), buys = 460 + Math.floor(random() * 80);
    return { _id: id(at), company, avgPrice: round(price), window: number + index, count: 1000, min: round(price - spread), max: round(price + spread * (0.6 + random())),
             open: round(price - spread / 3), close: round(price + spread / 3), buys, sells: 1000 - buys,
             firstAt: new Date(at - seconds * 1000), lastAt: new Date(at), writer: 'browser-test' };
  });
}

const round = value => Math.round(value * 100) / 100;
let counter = 0;
const id = at => new ObjectId(Math.floor(at / 1000).toString(16).padStart(8, '0') + '0000000000' + (counter++).toString(16).padStart(6, '0'));

// The same for the same text, so that a picture can be taken again.
function generator(text) {
  let seed = [...text].reduce((sum, letter) => (sum * 31 + letter.charCodeAt(0)) >>> 0, 7);
  return () => { seed = (seed * 1664525 + 1013904223) >>> 0; return seed / 2 ** 32; };
}
