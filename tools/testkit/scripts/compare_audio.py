#!/usr/bin/env python3
"""Compares recorded speech with the speech that was on the wire.

Reads a JSON document from standard input:
  {"tracks": [{"name": …, "recorded": WAV, "channel": 0, "reference": WAV, "reference_begins": samples, "direct": WAV}]}
`recorded` is a recording's file of 8 kHz with one channel per party; `reference` the mono speech of one stream as it was on the
wire, and `reference_begins` where it lies on the conversation's time line; `direct` the same speech coded and decoded by the
same codec without a recorder. Prints per track how far the recorded channel lies behind the reference (cross-correlation, in
milliseconds) and the PESQ (ITU-T P.862) of both codings against the reference.

Needs numpy and pesq."""
import json
import sys
import wave

import numpy
import pesq

RATE_HZ = 8000
# PESQ is made for sentences of 8 to 30 s.
JUDGED_SECONDS = 24
SEARCHED_SECONDS = 0.5


def read(path):
    with wave.open(path) as file:
        if (file.getframerate(), file.getsampwidth()) != (RATE_HZ, 2):
            raise SystemExit(f"{path}: {file.getframerate()} Hz, {file.getsampwidth()} bytes a sample")
        samples = numpy.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
        return samples.reshape(-1, file.getnchannels())


def lag(reference, recorded):
    """Samples by which `recorded` lies behind `reference`, at most SEARCHED_SECONDS either way."""
    size = 1 << int(numpy.ceil(numpy.log2(len(reference) + len(recorded))))
    spectrum = numpy.fft.rfft(recorded, size) * numpy.conj(numpy.fft.rfft(reference, size))
    correlation = numpy.fft.irfft(spectrum, size)
    limit = int(SEARCHED_SECONDS * RATE_HZ)
    window = numpy.concatenate([correlation[-limit:], correlation[: limit + 1]])
    return int(numpy.argmax(window)) - limit


def judge(track):
    recorded = read(track["recorded"])[:, track["channel"]].astype(float)
    reference = read(track["reference"])[:, 0].astype(float)
    direct = read(track["direct"])[:, 0].astype(float)
    placed = numpy.concatenate([numpy.zeros(track["reference_begins"]), reference])
    behind = lag(placed, recorded)
    begin = track["reference_begins"] + behind
    heard = recorded[max(begin, 0) :]
    if begin < 0:
        heard = numpy.concatenate([numpy.zeros(-begin), heard])
    length = min(len(reference), len(heard), len(direct), JUDGED_SECONDS * RATE_HZ)
    score = lambda degraded: pesq.pesq(RATE_HZ, reference[:length], degraded[:length], "nb")
    return {
        "name": track["name"],
        "lag_ms": behind * 1000 / RATE_HZ,
        "pesq_recorded": score(heard),
        "pesq_direct": score(direct),
    }


if __name__ == "__main__":
    json.dump({"tracks": [judge(track) for track in json.load(sys.stdin)["tracks"]]}, sys.stdout)
