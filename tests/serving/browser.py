"""A headless Chromium that waits for what a page does, over its debugging protocol."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def look(
    address: str, until: str, folder: Path, *, size: tuple[int, int] = (1200, 900), dark: bool = False, wait: float = 60
) -> tuple[str, bytes]:
    """The document and a picture of a page once a JavaScript expression holds there.

    Args:
        folder: for the browser's profile.
        wait: seconds after which what is there is taken as it is.
    """
    assert CHROMIUM is not None
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}", scheme,
        "--remote-debugging-port=0", f"--window-size={size[0]},{size[1]}", address,
    ]  # fmt: skip
    browser = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        return asyncio.run(_watch(folder / "DevToolsActivePort", address, until, time.monotonic() + wait))
    finally:
        browser.kill()
        browser.wait()


async def _watch(port_file: Path, address: str, until: str, deadline: float) -> tuple[str, bytes]:
    while not port_file.exists() or not port_file.read_text():
        assert time.monotonic() < deadline, "the browser does not start"
        await asyncio.sleep(0.05)
    port = port_file.read_text().split()[0]
    async with aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"http://127.0.0.1:{port}/json") as reply:
                pages = [page for page in json.loads(await reply.text()) if page["url"].startswith(address[:20])]
            if pages:
                break
            await asyncio.sleep(0.05)
        async with session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0) as socket:
            while not await _ask(socket, "Runtime.evaluate", expression=f"Boolean({until})"):
                if time.monotonic() > deadline:
                    break
                await asyncio.sleep(0.05)
            document = await _ask(socket, "Runtime.evaluate", expression="document.documentElement.outerHTML")
            picture = await _ask(socket, "Page.captureScreenshot")
    return str(document), base64.b64decode(picture)


async def _ask(socket: Any, method: str, **params: Any) -> Any:
    await socket.send_str(json.dumps({"id": 1, "method": method, "params": params}))
    while True:
        reply = json.loads((await socket.receive()).data)
        if reply.get("id") == 1:
            result = reply["result"]
            return result["result"].get("value") if "result" in result else result["data"]
