#!/usr/bin/env python3
"""Drives the web page in headless Chromium against a running appliance.

    chromium.py --url http://127.0.0.1:8080 [--recording ID] [--left-hz F --right-hz F] [--screenshot FILE.png] [--dark]

It opens the page, chooses the recording (the newest finished one when none is named), and checks that
  * the page shows it, without an error in the browser's console (a violated Content-Security-Policy is one);
  * the dual .opus decodes in Chromium (decodeAudioData) to two channels with sound of the recording's duration, and, where
    frequencies are given, that each channel's strongest frequency is its own: caller left, callee right;
  * the player plays it, and seeks into it by the keyboard;
  * a tag that is added on the page is found by it, counted, and can be removed.
Prints one JSON document with the figures, and exits with 1 and the reason when a check fails. Needs chromium and
chromedriver (Debian: chromium-driver), and nothing from the network.
"""

import argparse
import base64
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

TIMEOUT_SECONDS = 60

# No network but the page itself, nothing kept between runs. Sound may start without a click: nobody is there to click.
CHROMIUM_ARGUMENTS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-default-apps", "--disable-extensions", "--mute-audio",
    "--autoplay-policy=no-user-gesture-required", "--hide-scrollbars",
]

DECODE = """
const [address, done] = arguments;
(async () => {
  const response = await fetch(address);
  if (!response.ok) throw new Error(`${address}: ${response.status} ${await response.text()}`);
  const bytes = await response.arrayBuffer();
  const length = bytes.byteLength;
  const audio = await new OfflineAudioContext(2, 48000, 48000).decodeAudioData(bytes);
  const channels = [];
  for (let index = 0; index < audio.numberOfChannels; index++) {
    const samples = audio.getChannelData(index);
    let squares = 0, peak = 0, bad = 0;
    for (const sample of samples) { squares += sample * sample; peak = Math.max(peak, Math.abs(sample)); if (!Number.isFinite(sample)) bad++; }
    // The strongest frequency from 100 Hz to 3400 Hz in steps of 10 Hz (Goertzel) over the second in the middle.
    const start = Math.max(0, Math.floor(samples.length / 2 - audio.sampleRate / 2));
    const middle = samples.subarray(start, start + audio.sampleRate);
    let strongest = 0, power_max = -1;
    for (let frequency = 100; frequency <= 3400; frequency += 10) {
      const factor = 2 * Math.cos(2 * Math.PI * frequency / audio.sampleRate);
      let before = 0, last = 0;
      for (const sample of middle) { const next = sample + factor * last - before; before = last; last = next; }
      const power = before * before + last * last - factor * before * last;
      if (power > power_max) { power_max = power; strongest = frequency; }
    }
    channels.push({ rms: Math.sqrt(squares / samples.length), peak, bad, strongest_hz: strongest });
  }
  return { bytes: length, sample_rate: audio.sampleRate, duration_seconds: audio.duration, channels };
})().then((result) => done({ result }), (error) => done({ error: String(error) }));
"""

PLAY = """
const [done] = arguments;
(async () => {
  const audio = document.querySelector('.player audio');
  const until = (what, check) => new Promise((resolve, reject) => {
    const started = Date.now();
    const look = () => check() ? resolve() : Date.now() - started > 20000 ? reject(new Error(`no ${what} within 20 s: ${audio.error?.message}`)) : setTimeout(look, 50);
    look();
  });
  await until('metadata', () => audio.readyState >= 1);
  document.querySelector('.player .play').click();
  await until('progress', () => audio.currentTime > 0.3);
  const middle = audio.duration / 2;
  audio.currentTime = middle;
  await until('progress after seeking', () => audio.currentTime > middle + 0.2);
  return { duration_seconds: audio.duration, position_seconds: audio.currentTime, middle_seconds: middle };
})().then((result) => done({ result }), (error) => done({ error: String(error) }));
"""


class CheckFailed(Exception):
    """A check of this test; its text says what was expected and what was found."""


def check(condition, explanation):
    if not condition:
        raise CheckFailed(explanation)


class Browser:
    """A WebDriver session (W3C) with a chromedriver and a profile of its own."""

    def __init__(self, width, height, dark):
        for program in ("chromium", "chromedriver"):
            if shutil.which(program) is None:
                raise CheckFailed(f"{program} is not installed: apt-get install chromium chromium-driver")
        self.profile = tempfile.mkdtemp(prefix="sidetone-chromium-")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.base = f"http://127.0.0.1:{port}"
        self.session = None
        try:
            self._wait_for_driver()
            arguments = CHROMIUM_ARGUMENTS + [f"--user-data-dir={self.profile}", f"--window-size={width},{height}"]
            if dark:
                arguments.append("--force-dark-mode")
            answer = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": {
                "goog:chromeOptions": {"binary": shutil.which("chromium"), "args": arguments},
                "goog:loggingPrefs": {"browser": "ALL"},
                "timeouts": {"script": TIMEOUT_SECONDS * 1000, "pageLoad": TIMEOUT_SECONDS * 1000},
            }}})
            self.session = f"/session/{answer['sessionId']}"
        except BaseException:
            self.close()
            raise

    def _wait_for_driver(self):
        for _ in range(200):
            try:
                if self._ask("GET", "/status")["ready"]:
                    return
            except (urllib.error.URLError, ConnectionError):
                pass
            time.sleep(0.1)
        raise CheckFailed("chromedriver does not answer within 20 s")

    def _ask(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data=data, method=method, headers={"content-type": "application/json"})
        # A proxy of the environment is not meant for this host.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=TIMEOUT_SECONDS + 20) as response:
                return json.load(response)["value"]
        except urllib.error.HTTPError as error:
            raise CheckFailed(f"chromedriver: {json.load(error)['value']['message']}") from error

    def open(self, address):
        self._ask("POST", f"{self.session}/url", {"url": address})

    def run(self, script, *arguments):
        return self._ask("POST", f"{self.session}/execute/sync", {"script": script, "args": list(arguments)})

    def run_async(self, script, *arguments):
        answer = self._ask("POST", f"{self.session}/execute/async", {"script": script, "args": list(arguments)})
        check("error" not in answer, answer.get("error"))
        return answer["result"]

    def keys(self, text):
        actions = [action for key in text for action in ({"type": "keyDown", "value": key}, {"type": "keyUp", "value": key})]
        self._ask("POST", f"{self.session}/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def wait(self, script, what, seconds=20):
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            found = self.run(script)
            if found:
                return found
            time.sleep(0.1)
        raise CheckFailed(f"{what}: not within {seconds} s")

    def screenshot(self, path):
        with open(path, "wb") as file:
            file.write(base64.b64decode(self._ask("GET", f"{self.session}/screenshot")))

    def complaints(self):
        """What the browser's console was told at level SEVERE."""
        return [entry["message"] for entry in self._ask("POST", f"{self.session}/se/log", {"type": "browser"}) if entry["level"] == "SEVERE"]

    def close(self):
        if self.session:
            try:
                self._ask("DELETE", self.session)
            except (CheckFailed, urllib.error.URLError, ConnectionError):
                pass  # the driver is ended below in any case
        self.driver.terminate()
        try:
            self.driver.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.driver.kill()
            self.driver.wait()
        shutil.rmtree(self.profile, ignore_errors=True)


def fetch(address):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(address, timeout=TIMEOUT_SECONDS) as response:
        return json.load(response)


def test(arguments, browser):
    url = arguments.url.rstrip("/")
    if arguments.recording:
        recording = fetch(f"{url}/api/v1/recordings/{arguments.recording}")
    else:
        finished = [one for one in fetch(f"{url}/api/v1/recordings?limit=500")["recordings"] if one["state"] != "active"]
        check(finished, "there is no finished recording")
        recording = finished[0]
    identifier = recording["id"]

    browser.open(f"{url}/")
    rows = browser.wait("return document.querySelectorAll('#recordings tr[data-id]').length", "the list of recordings")
    # As somebody without a mouse: `/` goes to the search, the arrow into the list, Enter opens.
    browser.keys("/")
    check(browser.run("return document.activeElement.id") == "search", "`/` does not go to the search box")
    browser.keys("\ue015")
    check(browser.run("return !!document.activeElement.closest('#recordings')"), "the down arrow does not go from the search to the list")
    browser.keys("\ue007")
    browser.wait("return location.hash.startsWith('#/recordings/') && document.querySelector('#detail h2')", "Enter opens the recording")

    browser.open(f"{url}/#/recordings/{identifier}")
    browser.wait("return document.querySelector('.player audio')?.readyState >= 1", "the player has the recording")
    shown = browser.run("return document.getElementById('detail').innerText")
    check(identifier in shown, "the page does not show the recording")

    decoded = browser.run_async(DECODE, f"/api/v1/recordings/{identifier}/audio?format=opus&channels=dual")
    check(len(decoded["channels"]) == 2, f"dual has {len(decoded['channels'])} channels")
    difference = abs(decoded["duration_seconds"] - recording["duration_seconds"])
    check(difference <= 0.045, f"decoded {decoded['duration_seconds']} s, recorded {recording['duration_seconds']} s")
    for name, channel in zip(("left", "right"), decoded["channels"]):
        check(channel["bad"] == 0, f"{name}: {channel['bad']} samples are no numbers")
        check(arguments.allow_silence or channel["rms"] > 0.001, f"{name} is silent: {channel}")
    for name, channel, expected in zip(("left", "right"), decoded["channels"], (arguments.left_hz, arguments.right_hz)):
        check(expected is None or abs(channel["strongest_hz"] - expected) <= 10, f"{name}: {channel['strongest_hz']} Hz, expected {expected} Hz")

    played = browser.run_async(PLAY)
    check(abs(played["duration_seconds"] - recording["duration_seconds"]) <= 0.1, f"the player says {played['duration_seconds']} s")
    if arguments.screenshot:
        browser.screenshot(arguments.screenshot)
    browser.run("document.querySelector('.player .seek').focus(); document.querySelector('.player audio').pause()")
    browser.keys("\ue011")
    browser.wait("return document.querySelector('.player audio').currentTime === 0", "Home seeks to the beginning")
    check_tags(browser, identifier)
    complaints = browser.complaints()
    check(not complaints, f"the browser complains: {complaints}")
    return {"recording": identifier, "rows": rows, "decoded": decoded, "played": played}


def check_tags(browser, identifier):
    """Adds a tag as somebody does who types it, searches for it, and removes it. Leaves everything as it was."""
    key = f"checked-{int(time.time())}"
    browser.run("document.querySelector('.annotations input').focus()")
    browser.keys(f"{key}\ue004by a machine\ue007")
    shown = f"[...document.querySelectorAll('.tag')].map((tag) => tag.innerText).find((text) => text.startsWith('{key}'))"
    text = browser.wait(f"return {shown}", "the new tag is shown")
    check("by a machine" in text, f"the tag is shown as {text!r}")
    browser.run("document.getElementById('fewer-more').click(); document.getElementById('tag').focus()")
    browser.keys(f"{key}=by a machine")
    only = "[...document.querySelectorAll('#recordings tr[data-id]')].map((row) => row.dataset.id).join()"
    browser.wait(f"return {only} === '{identifier}'", "the search by the tag shows this recording alone")
    browser.wait("return document.getElementById('count').innerText === '1'", "one recording is counted")
    browser.run(f"[...document.querySelectorAll('.tag')].find((tag) => tag.innerText.startsWith('{key}')).querySelector('button').click()")
    browser.wait(f"return !({shown})", "the tag is removed")
    browser.run("document.getElementById('fewer-more').click()")
    browser.wait(f"return {only} !== ''", "the whole list is back")


def main():
    parser = argparse.ArgumentParser(description="Checks the web page and the dual .opus in headless Chromium.")
    parser.add_argument("--url", required=True)
    parser.add_argument("--recording", help="a recording's id; by default the newest finished one")
    parser.add_argument("--left-hz", type=float)
    parser.add_argument("--right-hz", type=float)
    parser.add_argument("--allow-silence", action="store_true", help="a channel may be silent (one-sided recordings)")
    parser.add_argument("--screenshot", metavar="FILE.png", help="of the page playing")
    parser.add_argument("--only-screenshot", action="store_true", help="open the page at --url as it is, take the screenshot, check nothing")
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--size", default="1440x900")
    arguments = parser.parse_args()
    browser = None
    try:
        width, height = map(int, arguments.size.split("x"))
        browser = Browser(width, height, arguments.dark)
        if arguments.only_screenshot:
            browser.open(arguments.url)
            time.sleep(2)
            browser.screenshot(arguments.screenshot)
            result = {"complaints": browser.complaints()}
        else:
            result = test(arguments, browser)
        print(json.dumps(result, indent=2))
    except CheckFailed as failure:
        sys.exit(f"FAILED: {failure}")
    finally:
        if browser:
            browser.close()


if __name__ == "__main__":
    main()
