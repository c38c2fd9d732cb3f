// The page as a person sees it, in a real browser, on the demo's pipeline.
// Rule: whatever it waits for has a deadline of its own; it changes nothing but one pod, which Kubernetes replaces.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { after, before, test } from 'node:test';
import { figure, launch, listen, sideways, state, violations } from './browser.js';

const PAGE = process.env.PAGE ?? 'http://localhost:8080/';
const COMPANIES = ['AAPL', 'MSFT', 'TSLA'];

let browser, page, heard;

before(async () => {
  browser = await launch();
  page = await browser.context.newPage();
  heard = listen(page, PAGE);
  await page.goto(PAGE);
});
after(() => browser?.close());

const prices = () => Promise.all(COMPANIES.map(async company => (await figure(page, company).textContent()).trim()));
const allChanged = old => page.waitForFunction(([companies, old]) => companies.every((company, index) =>
  document.querySelector(`[data-company="${company}"] .figure`).textContent.trim() !== old[index]), [COMPANIES, old]);

test('every company shows a price', async () => {
  for (const company of COMPANIES) {
    await figure(page, company).waitFor();
    const price = Number((await figure(page, company).textContent()).replaceAll(',', ''));
    assert.ok(price > 0, `${company} shows "${await figure(page, company).textContent()}"`);
  }
});

test('the connection is shown as live', () => state(page, 'live'));

test('the price of every company changes by itself', async () => allChanged(await prices()));

test('a company opens with its chart and its windows', async () => {
  await page.getByRole('link', { name: 'MSFT', exact: true }).click();
  await page.getByRole('heading', { name: 'MSFT' }).waitFor();
  await page.locator('#chart canvas').first().waitFor();
  await page.locator('#windows tbody tr').nth(1).waitFor();
  assert.deepEqual(await violations(page), []);
  await page.getByRole('link', { name: 'All companies' }).click();
  await figure(page, 'MSFT').waitFor();
});

test('a phone shows all of it without scrolling sideways', async () => {
  await page.setViewportSize({ width: 390, height: 844 });
  for (const company of COMPANIES) assert.ok(await figure(page, company).isVisible(), `${company}'s price is hidden`);
  assert.ok(await sideways(page) <= 0, 'the page is wider than the phone');
  await page.setViewportSize({ width: 1280, height: 800 });
});

test('axe finds nothing to complain of', async () => assert.deepEqual(await violations(page), []));

test('the page is silent on the console and asks nobody but its own host', async () => {
  if (process.env.SCREENSHOT) await page.screenshot({ path: process.env.SCREENSHOT });
  assert.deepEqual(heard.complaints, []);
  assert.deepEqual(heard.strangers, []);
});

test('when the pod that serves it is killed the page goes on with another, without a reload', async () => {
  await page.evaluate(() => { window.notReloaded = true; });
  const pod = (await page.locator('#pod').textContent()).replace('Served by ', '');
  execFileSync('kubectl', ['delete', 'pod', pod, '--namespace', process.env.DEMO_NAMESPACE ?? 'demo', '--grace-period=0', '--force', '--wait=false'],
               { stdio: ['ignore', 'ignore', 'ignore'] });
  await page.waitForFunction(pod => document.querySelector('#connection').dataset.state === 'live'
    && document.querySelector('#pod').textContent !== `Served by ${pod}`, pod);
  await allChanged(await prices());
  assert.equal(await page.evaluate(() => window.notReloaded), true);
});
