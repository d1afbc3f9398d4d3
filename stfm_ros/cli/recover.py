"""``stfm recover``: a recording that was interrupted becomes a whole bag, and says what it lost."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from stfm_ros.cli.command import Command, Outcome, Screen, table


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bag", type=Path, help="folder of a recording, or an .mcap file")


def execute(options: argparse.Namespace, screen: Screen) -> Outcome:
    from stfm_ros.recording.recover import recover

    found = recover(options.bag)
    lost = found.lost or {}
    if found.sealed or found.damaged:
        for name, cut in found.sealed.items():
            screen.show(f"{name}: finished after its last whole chunk, {cut} bytes were cut")
        for name in found.damaged:
            screen.show(f"{name}: nothing can be read of it, it is named {name}.damaged now")
    else:
        screen.show("every file is whole")
    counts = table("topic", "messages")
    for topic, count in found.messages.items():
        counts.add_row(topic, str(count))
    screen.show(counts)
    for topic, loss in lost.items():
        screen.show(
            f"lost of {topic}: {loss.counted}, and what came after the last flush, about {loss.uncounted_about}"
        )
    record = asdict(found)
    return Outcome(record, negative=any(loss.counted for loss in lost.values()) or bool(found.damaged))


COMMAND = Command(
    name="recover",
    summary="finish a bag whose recording was interrupted",
    description=(
        "After a kill or a power cut the last file of a recording has no end and the bag no metadata.yaml. Everything "
        "up to the last whole chunk stays as it is; what follows cannot be read and is cut, in place. metadata.yaml "
        "and manifest.json are written, with what was lost. A bag that is whole stays as it is, one that is still "
        "being recorded is refused. Takes the bags of this package's recorder, and any other in mcap with chunks."
    ),
    example="stfm recover recordings/2026-11-21",
    negative="messages are known to be lost, or a file cannot be read at all",
    fields={
        "bag": "what was named",
        "messages": "messages in the bag now, by topic",
        "sealed": "files that had been cut off, and the bytes that were cut from each",
        "damaged": "files of which nothing could be read, since renamed to NAME.damaged",
        "lost": "by the topic that was taken; null where no ledger tells it, or nothing was to do",
        "lost.TOPIC.counted": "messages that were taken before the last flush and are not in the bag",
        "lost.TOPIC.uncounted_about": "messages that usually come between two flushes: what came after the last one "
        "is counted nowhere",
    },
    arguments=arguments,
    execute=execute,
)
