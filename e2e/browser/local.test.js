// The page in every state it can be in, on a stock-liveview and a database of the test's own, whose cables can be pulled.
// Rule: each test has its own liveview; hours pass by moving the page's clock, nothing waits for seconds.

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { after, before, describe, test } from 'node:test';
import { figure, launch, listen, row, sideways, state, violations } from './browser.js';
import { Liveview, walk } from './liveview.js';

let browser;
before(async () => { browser = await launch(); });
after(() => browser?.close());

// Runs `body` on a page of a liveview that has `windows`.
async function on(windows, body, { size = { width: 1280, height: 800 }, path = '', settings, prepare = async () => {}, own } = {}) {
  const liveview = await Liveview.start({ settings });
  const page = await (own ?? browser).context.newPage();
  const heard = listen(page, liveview.url);
  try {
    if (windows.length) await liveview.insert(...windows);
    await prepare(page, liveview);
    await page.setViewportSize(size);
    await page.goto(liveview.url + path);
    await body(page, liveview, heard);
  } finally {
    await page.close();
    await liveview.end();
  }
}

// Keeps requests waiting until they are released.
async function hold(page, address) {
  const held = {}, released = new Promise(done => { held.release = done; });
  await page.route(address, async route => { await released; await route.continue(); });
  return held;
}

const shows = (page, company, price) => page.waitForFunction(([company, price]) =>
  document.querySelector(`[data-company="${company}"] .figure`)?.textContent === price, [company, price]);
const three = () => [...walk('AAPL', 80, { price: 190 }), ...walk('MSFT', 80, { price: 410 }), ...walk('TSLA', 80, { price: 250 })];
const next = (company, price, extra = {}) => ({ ...walk(company, 1)[0], avgPrice: price, ...extra });

describe('prices', () => {
  test('move, with their change against the window before and the session, and flash', () => on(
    [next('MSFT', 100, { window: 0 })], async (page, liveview) => {
      await shows(page, 'MSFT', '100.00');
      await liveview.insert(next('MSFT', 110, { window: 1, _id: undefined }));
      await shows(page, 'MSFT', '110.00');
      await liveview.insert(next('MSFT', 99, { window: 2, _id: undefined }));
      await shows(page, 'MSFT', '99.00');
      const text = async name => (await row(page, 'MSFT').locator(name).textContent()).replace('\u2212', '-');
      assert.equal(await text('.change'), '▼-11.00-10.00%');
      assert.equal(await text('.session'), '▼-1.00-1.00%');
      await page.reload();
      await shows(page, 'MSFT', '99.00');
      assert.equal(await text('.session'), '▼-1.00-1.00%', 'a reload begins no new session');
    }));

  test('never go back, whatever an older pod says', () => on([], async (page, liveview) => {
    const [old, young] = walk('MSFT', 2, { seconds: 60 });
    await liveview.insert(young);
    await figure(page, 'MSFT').waitFor();
    const shown = await figure(page, 'MSFT').textContent();
    await liveview.windows.deleteOne({ _id: young._id });
    await figure(page, 'MSFT').waitFor({ state: 'detached' });
    await liveview.insert(old, next('TSLA', 5));
    await shows(page, 'TSLA', '5.00');
    await figure(page, 'MSFT').waitFor();
    assert.equal(await figure(page, 'MSFT').textContent(), shown);
  }));

  test('are written as the reader writes numbers', async () => {
    const german = await launch({ locale: 'de-DE' });
    const liveview = await Liveview.start();
    try {
      await liveview.insert(next('MSFT', 1234.5));
      const page = await german.context.newPage();
      await page.goto(liveview.url);
      await shows(page, 'MSFT', '1.234,50');
    } finally {
      await german.close();
      await liveview.end();
    }
  });
});

describe('a reader', () => {
  test('finds a company however its symbol is written', () => on([...walk('btc-usd', 2), ...walk('MSFT', 2)], async page => {
    for (const text of ['btc-usd', 'BTC', 'Usd']) {
      await page.getByRole('searchbox').fill('');
      await page.getByText('2 companies', { exact: true }).waitFor();
      await page.getByRole('searchbox').fill(text);
      await page.getByText('1 of 2 companies').waitFor();
      assert.ok(await row(page, 'btc-usd').isVisible(), text);
    }
  }));

  // So Chromium names the language of a system whose locale is C.
  test('without a language sees prices and tables, and that the chart cannot be shown', () => on(walk('MSFT', 5), async page => {
    await figure(page, 'MSFT').waitFor();
    await page.getByRole('link', { name: 'MSFT', exact: true }).click();
    await page.getByText('The chart cannot be shown; the table below has the same figures.').waitFor();
    assert.equal(await page.locator('#windows tbody tr').count(), 5);
    assert.ok(await page.locator('#chart').isHidden());
    assert.deepEqual(await violations(page), []);
  }, { prepare: page => page.addInitScript(() => Object.defineProperties(navigator, {
    language: { value: 'en-US@posix' }, languages: { value: ['en-US@posix'] } })) }));
});

describe('the connection', () => {
  test('goes to the next pod when its own dies, without a reload, and with the news that came meanwhile', () => on(three(), async (page, liveview) => {
    await state(page, 'live');
    await page.evaluate(() => { window.notReloaded = true; });
    await liveview.kill();
    await state(page, 'lost');
    await page.getByText(/^Not connected/).waitFor();
    await liveview.insert(next('AAPL', 777, { _id: undefined }));
    await liveview.run('liveview-7d9c4-two');
    await shows(page, 'AAPL', '777.00');
    await state(page, 'live');
    await page.getByText('Served by liveview-7d9c4-two').waitFor();
    assert.equal(await page.evaluate(() => window.notReloaded), true);
  }));

  test('is told to go when its pod stops, and comes back at once', () => on(three(), async (page, liveview) => {
    await state(page, 'live');
    const closed = new Promise(done => page.on('websocket', done));
    await liveview.kill('SIGTERM');
    await liveview.run('liveview-7d9c4-two');
    await closed;
    await page.getByText('Served by liveview-7d9c4-two').waitFor();
    await state(page, 'live');
  }));

  test('of a laptop that slept for hours is not called live until prices come, and comes back by itself', async () => {
    // The clock is one for all pages of a browser.
    const sleeper = await launch();
    await on(three(), async (page, liveview) => {
      await state(page, 'live');
      await row(page, 'AAPL').getByText(/^60 windows from/).waitFor({ state: 'attached' });
      liveview.toBrowser.pull();
      await liveview.insert(next('AAPL', 800, { window: 80, _id: undefined }), next('AAPL', 888, { window: 81, _id: undefined }));
      await page.clock.fastForward('03:00:00');
      await state(page, 'lost');
      assert.equal(await row(page, 'MSFT').locator('.note').textContent(), '', 'nobody has told yet that it was silent');
      const lines = await hold(page, '**/api/sparklines*');
      liveview.toBrowser.mend();
      await page.evaluate(() => window.dispatchEvent(new Event('online')));
      await shows(page, 'AAPL', '888.00');
      await state(page, 'live');
      const change = row(page, 'AAPL').locator('.change');
      assert.equal(await change.textContent(), '–', 'the window before was missed');
      lines.release();
      await change.getByText('+88.00').waitFor();
    }, { own: sleeper, prepare: page => page.clock.install() }).finally(sleeper.close);
  });

  test('falls back to server-sent events where sockets do not get through', () => on(three(), async (page, liveview, heard) => {
    await shows(page, 'AAPL', (await figure(page, 'AAPL').textContent()));
    await state(page, 'live');
    await liveview.insert(next('AAPL', 999, { _id: undefined }));
    await shows(page, 'AAPL', '999.00');
    assert.deepEqual(heard.strangers, []);
  }, { prepare: page => page.routeWebSocket(/ws/, socket => socket.close()) }));

  test('that finds a full pod says so', () => on(three(), async (page, liveview) => {
    await state(page, 'live');
    const second = await browser.context.newPage();
    await second.goto(liveview.url);
    await second.getByText('as many readers as it takes').waitFor();
    await second.close();
  }, { settings: { MAX_READERS: '1' } }));
});

describe('what does not come', () => {
  test('an empty database says what to look at', () => on([], async (page, liveview) => {
    await page.getByRole('heading', { name: 'No prices yet' }).waitFor();
    assert.deepEqual(await violations(page), []);
    await liveview.insert(next('MSFT', 3));
    await shows(page, 'MSFT', '3.00');
    assert.ok(await page.locator('#empty').isHidden());
  }));

  test('a company whose consumer is not ready is named, with how long it waits; one that is merely slow is not', () => on(
    [...walk('AAPL', 5, { ago: 40_000 }), ...walk('MSFT', 5, { ago: 40_000 }), ...walk('SLOW', 5, { ago: 40_000, seconds: 900 }),
     ...walk('LATE', 5, { ago: 40_000 }).map(window => ({ ...window, _id: undefined }))],
    async (page, liveview) => {
      await row(page, 'AAPL').getByText(/no window for \d+ s: consumer of AAPL not ready$/).waitFor();
      await page.locator('#notice').getByText(/AAPL: no window for \d+ s: consumer of AAPL not ready since/).waitFor();
      assert.match(await row(page, 'MSFT').locator('.note').textContent(), /^⚠ no window for \d+ s$/, 'nothing is known of its consumer');
      assert.equal(await row(page, 'SLOW').locator('.note').textContent(), '');
      assert.equal(await row(page, 'LATE').locator('.note').textContent(), '', 'its trades are old, its window is new');
      assert.deepEqual(await violations(page), []);
      await liveview.lease('AAPL', -60_000);
      await liveview.insert(next('AAPL', 5, { _id: undefined }));
      await page.waitForFunction(() => document.querySelector('#notice').hidden);
    }, { prepare: (_, liveview) => liveview.lease('AAPL', 30_000) }));

  test('a database that does not answer is said, and that it answers again', () => on(three(), async (page, liveview) => {
    await state(page, 'live');
    liveview.toDatabase.pull();
    await page.getByText(/The database has not answered since/).waitFor();
    await state(page, 'silent');
    liveview.toDatabase.mend();
    await state(page, 'live');
    await page.waitForFunction(() => document.querySelector('#notice').hidden);
  }));

  test('a history that cannot be read says so, and the page goes on', () => on(three(), async page => {
    await page.getByText('The windows of MSFT cannot be shown: the database does not answer; try again.').waitFor();
    // The prices come by another way, in their own time.
    await page.locator('#company-price').waitFor();
  }, { path: '#/MSFT', prepare: page => page.route('**/windows?*', route => route.fulfill({ status: 503, json: { error: 'the database does not answer; try again' } })) }));
});

describe('a company', () => {
  test('opens by keyboard with chart, balance and windows, grows, pages back, and gives the focus back', () => on(walk('MSFT', 200, { price: 410 }), async (page, liveview, heard) => {
    await figure(page, 'MSFT').waitFor();
    assert.ok(!(await page.content()).includes('uPlot'), 'the chart is not loaded before it is needed');
    await page.getByRole('link', { name: 'MSFT', exact: true }).press('Enter');
    await page.getByRole('heading', { name: 'MSFT' }).waitFor();
    await page.locator('#chart canvas').first().waitFor();
    assert.match(await page.locator('#buys').textContent(), /^[\d,]+ buys, [\d.]+%$/);
    const numbers = page.locator('#windows tbody th');
    await page.waitForFunction(() => document.querySelectorAll('#windows tbody tr').length === 30);
    for (const expected of [60, 90, 120, 150]) {
      await page.getByRole('button', { name: 'Older windows' }).click();
      await page.waitForFunction(expected => document.querySelectorAll('#windows tbody tr').length === expected, expected);
    }
    const texts = await numbers.allTextContents();
    assert.deepEqual(texts, Array.from({ length: 150 }, (_, index) => `#${199 - index}`), 'no window twice, none missing');
    await liveview.insert(next('MSFT', 432.1, { window: 200, _id: undefined }));
    await page.waitForFunction(() => document.querySelector('#windows tbody th').textContent === '#200');
    assert.equal(await page.locator('#company-price').textContent(), '432.10');
    assert.deepEqual(await violations(page), []);
    await page.keyboard.press('Escape');
    await figure(page, 'MSFT').waitFor();
    assert.equal(await page.evaluate(() => document.activeElement.textContent), 'MSFT');
    assert.deepEqual(heard.complaints, []);
    assert.deepEqual(heard.strangers, []);
  }));

  test('asks for older windows once, however often the button is pressed', () => on(walk('MSFT', 200), async page => {
    const rows = count => page.waitForFunction(count => document.querySelectorAll('#windows tbody tr').length === count, count);
    const older = page.getByRole('button', { name: 'Older windows' });
    await rows(30);
    for (const count of [60, 90, 120]) {
      await older.click();
      await rows(count);
    }
    const asked = [];
    page.on('request', request => { if (request.url().includes('before=')) asked.push(request.url()); });
    const answers = await hold(page, '**/windows?*');
    await older.dblclick();
    assert.ok(await older.isDisabled());
    answers.release();
    await rows(150);
    await older.and(page.locator(':enabled')).waitFor();
    assert.equal(asked.length, 1);
    const numbers = await page.locator('#windows tbody th').allTextContents();
    assert.deepEqual(numbers, Array.from({ length: 150 }, (_, index) => `#${199 - index}`));
  }, { path: '#/MSFT' }));

  test('whose windows did not all arrive reads them again, and keeps what was paged in', async () => {
    let losing = false, lost;
    await on(walk('MSFT', 200), async (page, liveview) => {
      const numbers = page.locator('#windows tbody th');
      for (const count of [30, 60, 90, 120, 150]) {
        if (count > 30) await page.getByRole('button', { name: 'Older windows' }).click();
        await page.waitForFunction(count => document.querySelectorAll('#windows tbody tr').length === count, count);
      }
      losing = true;
      const missed = new Promise(done => { lost = done; });
      await liveview.insert(next('MSFT', 500, { window: 200, _id: undefined }));
      await missed;
      losing = false;
      await liveview.insert(next('MSFT', 510, { window: 201, _id: undefined }));
      await page.waitForFunction(() => document.querySelector('#company-price').textContent === '510.00');
      assert.match(await page.locator('#company-change').textContent(), /^–$|^▲\+10\.00/, 'never against the window before the missed one');
      await page.waitForFunction(() => document.querySelector('#windows tbody th').textContent === '#201');
      assert.deepEqual(await numbers.allTextContents(), Array.from({ length: 150 }, (_, index) => `#${201 - index}`));
      assert.match(await page.locator('#company-change').textContent(), /^▲\+10\.00/);
    }, { path: '#/MSFT', prepare: page => page.routeWebSocket(/ws/, socket => {
      socket.connectToServer().onMessage(message => {
        if (!losing) return socket.send(message);
        if (JSON.parse(message).prices.length) lost();
      });
    }) });
  });

  test('whose symbol has signs of its own opens from its address', () => on(walk('^GSPC', 5), async page => {
    await page.getByRole('heading', { name: '^GSPC' }).waitFor();
    await page.locator('#chart canvas').first().waitFor();
  }, { path: '#/%5EGSPC' }));
});

describe('the order that is chosen where the table has no heads to press', () => {
  test('by age is the one that its name says', () => on(
    [...walk('MID', 2, { ago: 60_000 }), ...walk('OLD', 2, { ago: 120_000 }), ...walk('NEW', 2)], async page => {
      await page.setViewportSize({ width: 390, height: 844 });
      for (const [order, first] of [['Age, newest first', 'NEW'], ['Age, oldest first', 'OLD']]) {
        await page.locator('#sort').selectOption({ label: order });
        await page.waitForFunction(first => document.querySelector('.rows [aria-rowindex="2"]')?.dataset.company === first, first);
      }
    }));
});

describe('many companies', () => {
  const symbols = Array.from({ length: 3000 }, (_, index) => `C${String(index).padStart(4, '0')}`);

  test('3000 of them stay smooth: few rows exist, a frame is shown within 50 ms, search and sort answer', () => on(
    symbols.flatMap((symbol, index) => walk(symbol, 2, { price: 50 + index / 10 })), async (page, liveview) => {
      await page.getByText('3,000 companies').waitFor();
      assert.ok(await page.locator('.rows .row').count() < 60);
      // The times between two frames of the screen while the page scrolls from end to end.
      const gaps = await page.evaluate(() => new Promise(done => {
        const gaps = [];
        let last = performance.now(), step = 0;
        requestAnimationFrame(function next(now) {
          gaps.push(now - last);
          last = now;
          scrollTo(0, document.body.scrollHeight * step / 120);
          if ((step += 1) <= 120) requestAnimationFrame(next); else done(gaps.sort((a, b) => a - b));
        });
      }));
      const at = share => gaps[Math.floor((gaps.length - 1) * share)].toFixed(0);
      console.log(`scrolling through 3000 companies: ${at(0.5)} ms a frame, ${at(0.95)} ms at the 95th percentile`);
      const took = await page.evaluate(async () => {
        const { Prices } = await import('./page/prices.js');
        const frame = await (await fetch('api/prices')).json(), prices = new Prices(), start = performance.now();
        prices.take(frame);
        return performance.now() - start;
      });
      assert.ok(took < 50, `taking a frame of 3000 companies took ${took} ms`);
      await page.getByRole('button', { name: 'Price' }).click();
      const top = await liveview.windows.find().sort({ _id: -1 }).limit(3000).toArray();
      const highest = top.reduce((best, window) => window.avgPrice > best.avgPrice ? window : best);
      await page.evaluate(() => scrollTo(0, 0));
      await page.waitForFunction(company => document.querySelector('.rows [aria-rowindex="2"]')?.dataset.company === company, highest.company);
      await page.getByRole('searchbox').fill('c0042');
      await page.getByText('1 of 3,000 companies').waitFor();
      assert.ok(await row(page, 'C0042').isVisible());
      await page.getByRole('searchbox').fill('nobody');
      await page.getByText('No company matches “nobody”.').waitFor();
      await page.getByRole('searchbox').fill('');
      await page.getByRole('link', { name: highest.company }).focus();
      for (let times = 0; times < 4; times++) await page.keyboard.press('PageDown');
      assert.equal(await page.evaluate(() => document.activeElement.closest('[role=row]').ariaRowIndex), '42');
      assert.deepEqual(await violations(page), []);
    }));
});

describe('every screen', () => {
  const sizes = { phone: { width: 390, height: 844 }, small: { width: 320, height: 568 }, tablet: { width: 820, height: 1180 }, wide: { width: 1920, height: 1080 } };
  for (const scheme of ['light', 'dark']) {
    test(`${scheme}: no scrolling sideways and nothing for axe to complain of, from phone to wide`, () => on(three(), async page => {
      await page.emulateMedia({ colorScheme: scheme });
      for (const [name, size] of Object.entries(sizes)) {
        await page.setViewportSize(size);
        for (const hash of ['#/', '#/MSFT']) {
          await page.goto(page.url().replace(/#.*|$/, hash));
          await (hash === '#/' ? figure(page, 'MSFT') : page.locator('#chart canvas').first()).waitFor();
          assert.ok(await sideways(page) <= 0, `${name} ${hash} is wider than its screen`);
          assert.deepEqual(await violations(page), [], `${name} ${hash}`);
        }
      }
      const ground = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
      assert.equal(ground, scheme === 'dark' ? 'rgb(13, 16, 21)' : 'rgb(246, 247, 249)');
    }));
  }
});

describe('the first view', () => {
  test('takes at most 100 kB on the wire, and a second load next to nothing', () => on(three(), async page => {
    const session = await page.context().newCDPSession(page);
    await session.send('Network.enable');
    let bytes = 0;
    session.on('Network.loadingFinished', ({ encodedDataLength }) => { bytes += encodedDataLength; });
    const load = async () => { bytes = 0; await page.reload(); await figure(page, 'MSFT').waitFor(); await page.waitForLoadState('networkidle'); return bytes; };
    const second = await load();
    await session.send('Network.clearBrowserCache');
    const first = await load();
    console.log(`first view: ${first} bytes, again: ${second}`);
    assert.ok(first < 100_000, `${first} bytes`);
    assert.ok(second < 10_000, `${second} bytes`);
  }));

  test('the chart library is the one the lock file names', async () => {
    for (const name of ['uPlot.iife.min.js', 'uPlot.min.css']) {
      const [ours, theirs] = await Promise.all([`../../workloads/src/liveview/page/vendor/${name}`, `node_modules/uplot/dist/${name}`]
        .map(path => readFile(new URL(path, import.meta.url), 'utf8')));
      assert.equal(ours, theirs, `${name}: copy it from node_modules/uplot/dist/`);
    }
  });
});
