// The chart of a company: averages within the band of lowest and highest, and the share of buys below it.
// Rule: only this file knows the chart library (uPlot, vendor/), which is loaded when it is first needed.

import { count, portion, price, time } from './format.js';
import { madeAt } from './prices.js';
import { make, set } from './table.js';
import { palette } from './sparkline.js';

let library = null;

function load() {
  library ??= new Promise((done, fail) => {
    const style = document.createElement('link');
    style.rel = 'stylesheet';
    style.href = 'page/vendor/uPlot.min.css';
    const script = document.createElement('script');
    script.src = 'page/vendor/uPlot.iife.min.js';
    // It ends before it begins where the browser's own language is one that Intl refuses.
    script.onload = () => window.uPlot ? done(window.uPlot) : fail(new Error('the chart does not run here'));
    script.onerror = () => { library = null; style.remove(); script.remove(); fail(new Error('the chart cannot be loaded')); };
    document.head.append(style, script);
  });
  return library;
}

export class Chart {
  #windows = [];

  static async in(element) {
    const uPlot = await load();
    element.querySelectorAll('.plot, .legend').forEach(old => old.remove());
    return new Chart(uPlot, element);
  }

  constructor(uPlot, element) {
    const { text, soft, line, accent, up } = palette(), tint = palette()['accent-tint'];
    const font = `12px ${getComputedStyle(document.body).fontFamily}`;
    this.element = element;
    this.legend = make('p', 'legend', element);
    const axis = extra => ({ stroke: soft, font, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1, size: 4 }, ...extra });
    const common = {
      width: 100, padding: [8, 12, 0, 0], legend: { show: false },
      cursor: { sync: { key: 'company' }, drag: { x: true, y: false, setScale: true }, points: { size: 7 } },
      hooks: { setCursor: [plot => this.#say(plot.cursor.idx)] },
    };
    const size = 68;
    this.prices = new uPlot({
      ...common, height: 300,
      scales: { x: { time: true } },
      axes: [axis({ space: 70 }), axis({ size, values: (_, ticks) => ticks.map(tick => price(tick)) })],
      series: [{}, { label: 'Lowest', stroke: 'transparent', points: { show: false } },
               { label: 'Highest', stroke: 'transparent', points: { show: false } },
               { label: 'Average', stroke: accent, width: 2, points: { show: false } }],
      bands: [{ series: [2, 1], fill: tint }],
    }, null, make('div', 'plot', element));
    this.prices.root.ariaHidden = 'true';
    this.buys = new uPlot({
      ...common, height: 110,
      scales: { x: { time: true }, y: { range: (_, low, high) => { const far = Math.max(0.05, Math.abs(low - 0.5), Math.abs(high - 0.5)) * 1.1; return [0.5 - far, 0.5 + far]; } } },
      axes: [axis({ show: false }), axis({ size, space: 28, values: (_, ticks) => ticks.map(tick => portion(tick)) })],
      series: [{}, { label: 'Share of buys', stroke: up, width: 1.5, fill: 'transparent', points: { show: false } },
               { label: 'Half', stroke: soft, width: 1, dash: [4, 4], points: { show: false } }],
    }, null, make('div', 'plot', element));
    this.buys.root.ariaHidden = 'true';
    // Both show the same time, also after one of them was dragged over.
    for (const [plot, other] of [[this.prices, this.buys], [this.buys, this.prices]]) {
      plot.hooks.setScale = [(_, key) => {
        if (key !== 'x') return;
        const { min, max } = plot.scales.x, its = other.scales.x;
        if (its.min !== min || its.max !== max) other.setScale('x', { min, max });
      }];
    }
    this.watch = new ResizeObserver(() => this.#fit());
    this.watch.observe(element);
    this.#fit();
    element.style.setProperty('--chart-text', text);
  }

  // Oldest first.
  show(windows) {
    const times = [];
    // A chart's time goes forward; windows of one second share it.
    windows.forEach((window, index) => {
      const at = (madeAt(window) ?? index * 1000) / 1000;
      times.push(index && at <= times[index - 1] ? times[index - 1] + 0.001 : at);
    });
    this.#windows = windows;
    const of = name => windows.map(window => window[name] ?? null);
    this.prices.setData([times, of('min'), of('max'), of('avgPrice')]);
    const shares = windows.map(({ buys, sells }) => buys + sells > 0 ? buys / (buys + sells) : null);
    this.buys.setData([times, shares, shares.map(() => 0.5)]);
    this.buys.root.hidden = shares.every(share => share === null);
    this.#say(this.prices.cursor.idx);
  }

  destroy() {
    this.watch.disconnect();
    this.prices.destroy();
    this.buys.destroy();
    this.element.querySelectorAll('.plot, .legend').forEach(old => old.remove());
  }

  #fit() {
    const width = Math.floor(this.element.clientWidth);
    for (const plot of [this.prices, this.buys]) if (plot && width && plot.width !== width) plot.setSize({ width, height: plot.height });
  }

  #say(index) {
    const window = this.#windows[index ?? this.#windows.length - 1];
    if (!window) return;
    const parts = [time(madeAt(window)), `average ${price(window.avgPrice)}`, `lowest ${price(window.min)}`, `highest ${price(window.max)}`,
                   `${count(window.buys)} buys, ${count(window.sells)} sells`];
    set(this.legend, parts.join('  ·  '));
  }
}
