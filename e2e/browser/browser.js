// A Chromium that calls nobody, and what the tests ask of its pages.

import { readFile, mkdtemp, rm } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chromium } from 'playwright-core';

export const PATIENCE = 30_000;
const AXE = createRequire(import.meta.url).resolve('axe-core/axe.min.js');

export async function launch(options = {}) {
  const folder = await mkdtemp(join(tmpdir(), 'stockpipeline-browser-'));
  const context = await chromium.launchPersistentContext(folder, {
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    viewport: { width: 1280, height: 800 },
    locale: 'en-US',
    ...options,
    // Without these, Chromium itself calls its maker, and QUIC fails where only loopback is open.
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
           '--disable-component-update', '--disable-sync'],
  });
  context.setDefaultTimeout(PATIENCE);
  if (process.env.STOCK_PAGE_FILES) await serveFrom(process.env.STOCK_PAGE_FILES, context);
  return { context, close: async () => { await context.close(); await rm(folder, { recursive: true, force: true }); } };
}

// For whoever works on the page: its files from the folder as they are now, without compiling the program.
async function serveFrom(folder, context) {
  await context.route(address => /^\/(page\/.*)?$/.test(address.pathname), async route => {
    const path = new URL(route.request().url()).pathname.replace(/^\/(page\/)?/, '') || 'index.html';
    const answer = await route.fetch().catch(() => null);
    if (!answer) return route.abort();
    const headers = { ...answer.headers(), 'content-type': { html: 'text/html', js: 'text/javascript', css: 'text/css', txt: 'text/plain' }[path.split('.').pop()] };
    delete headers['content-encoding'];
    await route.fulfill({ status: 200, headers, body: await readFile(join(folder, path)) });
  });
}

// What a page says on its console, and whom it asks but its own host.
export function listen(page, home) {
  const heard = { complaints: [], strangers: [] };
  page.on('console', message => { if (['error', 'warning'].includes(message.type())) heard.complaints.push(message.text()); });
  page.on('pageerror', error => heard.complaints.push(String(error)));
  const note = address => {
    const url = new URL(address);
    if (!['data:', 'blob:'].includes(url.protocol) && url.host !== new URL(home).host) heard.strangers.push(address);
  };
  page.on('request', request => note(request.url()));
  page.on('websocket', socket => note(socket.url()));
  return heard;
}

// What axe finds wrong; evaluated by the debugger, so that the page's strict policy stays in force.
export async function violations(page) {
  await page.evaluate(await readFile(AXE, 'utf8'));
  const { violations } = await page.evaluate(() => axe.run(document, { resultTypes: ['violations'] }));
  return violations.map(({ id, nodes }) => `${id}: ${nodes.map(node => `${node.html.slice(0, 160)} ${node.failureSummary ?? ''}`).join(' | ')}`);
}

export const row = (page, company) => page.locator(`[data-company="${company}"]`);
export const figure = (page, company) => row(page, company).locator('.figure');
export const state = (page, wanted) => page.waitForFunction(state => document.querySelector('#connection')?.dataset.state === state, wanted);
export const sideways = page => page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
