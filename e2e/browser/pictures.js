// The pictures of the documentation, of realistic data: node pictures.js FOLDER
// Rule: what they show is what the page shows; nothing is retouched.

import { join } from 'node:path';
import { figure, launch, state } from './browser.js';
import { Liveview, walk } from './liveview.js';

const folder = process.argv[2];
const COMPANIES = { AAPL: 191, AMZN: 178, 'BRK.B': 412, GOOGL: 164, JPM: 203, META: 498, MSFT: 417, NFLX: 611, NVDA: 121, ORCL: 138, TSLA: 246, V: 279 };

const liveview = await Liveview.start();
const browser = await launch();
try {
  for (const [company, price] of Object.entries(COMPANIES)) {
    await liveview.insert(...walk(company, 150, { price, seconds: 2, number: 18_400 + company.length * 7 }));
  }
  const page = await browser.context.newPage();
  const step = async () => {
    for (const company of Object.keys(COMPANIES)) {
      const [last] = await liveview.windows.find({ company }).sort({ _id: -1 }).limit(1).toArray();
      const [window] = walk(company, 2, { price: last.avgPrice, number: last.window, random: Math.random }).slice(1);
      await liveview.insert(window);
    }
  };
  const shoot = async (name, { width, height, scheme = 'light', hash = '#/' }) => {
    await page.setViewportSize({ width, height });
    await page.emulateMedia({ colorScheme: scheme, reducedMotion: 'reduce' });
    await page.goto('about:blank');
    await page.goto(`${liveview.url}${hash}`);
    await (hash === '#/' ? figure(page, 'MSFT') : page.locator('#chart canvas').first()).waitFor();
    await state(page, 'live');
    for (let times = 0; times < 2; times++) {
      await step();
      await page.waitForTimeout(700);
    }
    await page.mouse.move(0, 0);
    await page.screenshot({ path: join(folder, `${name}.png`) });
  };
  await shoot('page', { width: 1360, height: 860 });
  await shoot('page-dark', { width: 1360, height: 860, scheme: 'dark' });
  await shoot('company', { width: 1360, height: 1100, hash: '#/MSFT' });
  await shoot('phone', { width: 390, height: 844 });
} finally {
  await browser.close();
  await liveview.end();
}
