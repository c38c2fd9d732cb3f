// Prints COUNT frames of the page at PAGE_URL, one a line.
const { WebSocket } = require('ws');

const { PAGE_URL, COUNT } = process.env;
let seen = 0;
const page = new WebSocket(PAGE_URL);
page.on('message', (frame) => {
  if (seen === Number(COUNT)) return;
  seen += 1;
  console.log(frame.toString());
  if (seen === Number(COUNT)) page.close();
});
page.on('error', (error) => {
  console.error(error);
  process.exit(1);
});
