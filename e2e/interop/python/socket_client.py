"""Prints COUNT frames of the page at PAGE_URL, one a line."""

import os

import websocket

page = websocket.create_connection(os.environ["PAGE_URL"], timeout=60)
for _ in range(int(os.environ["COUNT"])):
    print(page.recv(), flush=True)
page.close()
