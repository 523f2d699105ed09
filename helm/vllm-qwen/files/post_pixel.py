"""Post a one-pixel picture to the server and expect an answer. Standard library only."""

import base64
import json
import os
import struct
import sys
import urllib.error
import urllib.request
import zlib

URL, MODEL = os.environ["VLM_URL"], os.environ["VLM_MODEL"]
TIMEOUT = float(os.environ.get("VLM_TIMEOUT", "300"))


def png() -> bytes:
    """One red pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\x00\xff\x00\x00"))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")


def call(path: str, body: object = None) -> dict:
    """GET, or POST where there is a body; ends with the server's own words on an error."""
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("VLLM_API_KEY"):
        headers["Authorization"] = "Bearer " + key
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(URL + path, data, headers)  # noqa: S310 - URL is the chart's
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:  # noqa: S310
            return json.load(answer)
    except urllib.error.HTTPError as error:
        sys.exit(f"{path}: {error.code} {error.read(2000).decode(errors='replace')}")
    except OSError as error:
        sys.exit(f"{URL}{path}: {error}")


names = [model["id"] for model in call("/models")["data"]]
if MODEL not in names:
    sys.exit(f"the server has {names}, not {MODEL}")
picture = "data:image/png;base64," + base64.b64encode(png()).decode()
content = [
    {"type": "image_url", "image_url": {"url": picture}},
    {"type": "text", "text": "Which colour is this?"},
]
question = {"model": MODEL, "messages": [{"role": "user", "content": content}], "max_tokens": 8}
answer = call("/chat/completions", question)
if not isinstance(answer["choices"][0]["message"]["content"], str):
    sys.exit(f"no text in the answer: {answer}")
if answer["usage"]["completion_tokens"] < 1:
    sys.exit(f"no token in the answer: {answer}")
print(f"{MODEL} answered: {answer['choices'][0]['message']['content']!r}")
