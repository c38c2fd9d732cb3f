// The last averages as a small line. Rule: it draws what it is given; colours come from the style sheet.

let colours = null;
const forget = () => { colours = null; };
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', forget);

export function palette() {
  if (!colours) {
    const style = getComputedStyle(document.documentElement), of = name => style.getPropertyValue(`--${name}`).trim();
    colours = Object.fromEntries(['text', 'soft', 'line', 'card', 'accent', 'accent-tint', 'up', 'down'].map(name => [name, of(name)]));
  }
  return colours;
}

export function draw(canvas, prices, direction) {
  const ratio = devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
  if (!width) return;
  if (canvas.width !== Math.round(width * ratio)) { canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio); }
  const context = canvas.getContext('2d'), { accent, up, down } = palette();
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  if (prices.length < 2) return;
  const low = Math.min(...prices), span = Math.max(...prices) - low || 1, inset = 4;
  const x = index => inset + index / (prices.length - 1) * (width - 2 * inset);
  const y = price => height - inset - (price - low) / span * (height - 2 * inset);
  context.beginPath();
  prices.forEach((price, index) => context.lineTo(x(index), y(price)));
  context.lineJoin = context.lineCap = 'round';
  context.lineWidth = 1.5;
  context.strokeStyle = accent;
  context.stroke();
  context.lineTo(x(prices.length - 1), height);
  context.lineTo(x(0), height);
  context.globalAlpha = 0.1;
  context.fillStyle = accent;
  context.fill();
  context.globalAlpha = 1;
  context.beginPath();
  context.arc(x(prices.length - 1), y(prices.at(-1)), 2.75, 0, 2 * Math.PI);
  context.fillStyle = direction === 'up' ? up : direction === 'down' ? down : accent;
  context.fill();
}
