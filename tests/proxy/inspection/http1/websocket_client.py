"""PyPI's websocket-client through the proxy of its environment: says each word and prints what comes back."""

import ssl
import sys

import websocket

url, authorities, *words = sys.argv[1:]
context = ssl.create_default_context(cafile=authorities)
connection = websocket.create_connection(url, sslopt={"context": context}, timeout=60)
for word in words:
    connection.send(word)
    opcode, data = connection.recv_data()
    if opcode == websocket.ABNF.OPCODE_CLOSE:
        sys.stdout.write(f"closed {int.from_bytes(data[:2])} {data[2:].decode()}\n")
        break
    sys.stdout.write(f"got {data.decode()}\n")
else:
    connection.close()
    sys.stdout.write("closed 1000 \n")
