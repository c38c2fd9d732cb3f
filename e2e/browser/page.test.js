// The page as a person sees it, in a real browser, on the demo's pipeline.
// Rule: it only looks; whatever it waits for has a deadline of its own.

import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { chromium } from 'playwright-core';

const PAGE = process.env.PAGE ?? 'http://localhost:8080/';
const COMPANIES = ['AAPL', 'MSFT', 'TSLA'];
// A window of 1000 events at 500 a second takes two seconds.
const PATIENCE = 30_000;

let browser, folder, page;
const complaints = [], strangers = [];

before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'stockpipeline-browser-'));
  browser = await chromium.launchPersistentContext(folder, {
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    viewport: { width: 1280, height: 800 },
    // Without these, Chromium itself calls its maker, and QUIC fails where only loopback is open.
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
           '--disable-component-update', '--disable-sync'],
  });
  page = await browser.newPage();
  page.setDefaultTimeout(PATIENCE);
  page.on('console', message => { if (['error', 'warning'].includes(message.type())) complaints.push(message.text()); });
  page.on('pageerror', error => complaints.push(String(error)));
  const home = new URL(PAGE).host;
  const note = address => { const url = new URL(address); if (url.protocol !== 'data:' && url.host !== home) strangers.push(address); };
  page.on('request', request => note(request.url()));
  page.on('websocket', socket => note(socket.url()));
  await page.goto(PAGE);
});

after(async () => {
  await browser?.close();
  if (folder) await rm(folder, { recursive: true, force: true });
});

const cell = company => page.locator(`[data-company="${company}"] .price`);
const prices = () => Promise.all(COMPANIES.map(async company => (await cell(company).textContent()).trim()));

test('every company shows a price', async () => {
  for (const company of COMPANIES) {
    await cell(company).waitFor();
    const price = Number((await cell(company).textContent()).replaceAll(',', ''));
    assert.ok(price > 0, `${company} shows "${await cell(company).textContent()}"`);
  }
});

test('the connection is shown as live', async () => {
  await page.waitForFunction(() => document.querySelector('#connection')?.dataset.state === 'live');
});

test('the price of every company changes by itself', async () => {
  const old = Object.fromEntries(COMPANIES.map((company, index) => [company, index])), first = await prices();
  await page.waitForFunction(([old, first]) => Object.entries(old).every(([company, index]) =>
    document.querySelector(`[data-company="${company}"] .price`).textContent.trim() !== first[index]), [old, first]);
});

test('a phone shows all of it without scrolling sideways', async () => {
  await page.setViewportSize({ width: 390, height: 844 });
  for (const company of COMPANIES) assert.ok(await cell(company).isVisible(), `${company}'s price is hidden`);
  const [content, view] = await page.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
  assert.ok(content <= view, `the page is ${content} pixels wide on a screen of ${view}`);
  await page.setViewportSize({ width: 1280, height: 800 });
});

test('the page is silent on the console and asks nobody but its own host', async () => {
  if (process.env.SCREENSHOT) await page.screenshot({ path: process.env.SCREENSHOT });
  assert.deepEqual(complaints, []);
  assert.deepEqual(strangers, []);
});
