"""A whole set at 10 frames/s: Balor full frames, a Pilatus and a Zyla at once, into files.

    python tests/benchmarks/bench_end_to_end.py [SECONDS] [FOLDER]

Three simulated detectors, the three devices with their files (photon tables, sums,
curves), a scan's positions posted by HTTP, and five clients that read State and ten
scalars from every device ten times a second (one of them the previews, too); all in
processes of their own. It prints what became of the frames (compared with the
simulators' own counts), how long they took, and what every process took.

SECONDS is 20 if not given; SECONDS count from when all detectors send (some 30 s after
the start). FOLDER keeps files and logs (`log/`); else they are removed. Run it on a machine
with nothing else to do. When a device's queue is half full its detector is slowed down, so that
nothing is lost on a slow machine; the column `frames/s` and a line below the table say so.

- latency: from the detector's stamp, made just before it sends, to the end of the reduction;
- transport: of it, until the whole frame has arrived; here: the rest;
- map + reduce: the device's `processing_time`, the work alone;
- seen: share of the reduced frames whose times were seen from outside.

The detectors send a little longer than SECONDS; counts are of all frames, rates and times
of those sent in the SECONDS.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from ronda.tests.end_to_end import RATE, TIMES, Outcome, Run, run_set


def main() -> None:
    """Run the set and print the tables."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 20.0
    if len(sys.argv) > 2:
        folder = Path(sys.argv[2])
        folder.mkdir(parents=True)
        show(run_set(seconds, folder.resolve(), _say))
        return
    with tempfile.TemporaryDirectory() as folder_name:
        show(run_set(seconds, Path(folder_name), _say))


def _say(what: str) -> None:
    print(f"... {what}", file=sys.stderr, flush=True)


def show(run: Run) -> None:
    """Print what was seen."""
    print(f"\n{run.seconds:.0f} s, each detector at {RATE:g} frames/s")
    counted = "received  reduced  rejected  dropped  lost  in files  photons"
    print(f"detector   frames/s   sent  {counted}")
    for one in run.outcomes:
        counts = one.counts
        print(
            f"{one.name:10} {one.rate:8.2f} {one.sent['images_sent']:6d} {counts['received']:9d}"
            f" {counts['reduced']:8d} {counts['rejected']:9d} {counts['dropped']:8d}"
            f" {counts['lost']:5d} {one.files.rows:9d} {one.files.photons:8d}"
        )
    print("\nms: median / 99th percentile / most")
    print("detector " + "".join(f"{name:>24}" for name in TIMES) + "   seen")
    for one in run.outcomes:
        share = len(one.times) / max(one.measured, 1)
        columns = "".join(f"{_times(one, column):>24}" for column in range(len(TIMES)))
        print(f"{one.name:9}{columns} {100 * share:5.0f} %")
    print("\nMB (least of the second third, of the last third; most) and CPU (share of one core)")
    for usage in run.usage:
        print(
            f"{usage.name:40} {usage.before:7.0f} {usage.after:7.0f} {usage.most:7.0f}"
            f" {100 * usage.cpu:6.0f} %"
        )
    total = sum(usage.cpu for usage in run.usage)
    print(f"{'all':40} {sum(u.before for u in run.usage):7.0f}"
          f" {sum(u.after for u in run.usage):7.0f} {'':7} {100 * total:6.0f} %")  # fmt: skip
    print(f"{'other programs of this machine':40} {'':23} {100 * run.others:6.0f} %")
    polls = ", ".join(f"{polls:.1f}" for polls in run.polls)
    print(f"\nrequests/s of the clients: {polls}; {run.refused} refused, the device was held up")
    for one in run.outcomes:
        print(f"{one.name}: {one.files.number} files, {one.files.bytes / 1e6:.0f} MB; {one.state}")
        if one.state != "STANDBY":
            print(f"{one.name}: {one.status}")
        if one.slowed < RATE:
            print(f"{one.name}: slowed down to {one.slowed:.1f} frames/s, its queue filled")
        for problem in one.files.problems:
            print(f"PROBLEM: {problem}")
    for line in run.errors:
        print(f"ERROR: {line}")


def _times(one: Outcome, column: int) -> str:
    if not len(one.times):
        return "-"
    times = 1e3 * one.times[:, column]
    return f"{np.median(times):.1f} / {np.percentile(times, 99):.1f} / {times.max():.1f}"


if __name__ == "__main__":
    main()
