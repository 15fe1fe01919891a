"""A reliable data channel of aiortc over loopback, one process each side: `aiortc.py BYTES`.

Prints one line of JSON: seconds from the first message to the receiver's last, and CPU seconds of both processes.
"""

import asyncio
import json
import multiprocessing
import resource
import sys
import time

from aiortc import RTCPeerConnection, RTCSessionDescription

MESSAGE = bytes(64 << 10)
MOST_BUFFERED = 1 << 20


def cpu():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def take(pipe):
    return await asyncio.get_running_loop().run_in_executor(None, pipe.recv)


async def describe(connection, pipe):
    pipe.send((connection.localDescription.sdp, connection.localDescription.type))


async def receive(pipe, size):
    connection = RTCPeerConnection()
    done = asyncio.get_running_loop().create_future()

    @connection.on("datachannel")
    def arrived(channel):
        state = {"bytes": 0, "cpu": None}

        @channel.on("message")
        def message(data):
            if state["cpu"] is None:
                state["cpu"] = cpu()
            state["bytes"] += len(data)
            if state["bytes"] >= size and not done.done():
                done.set_result(cpu() - state["cpu"])

    await connection.setRemoteDescription(RTCSessionDescription(*await take(pipe)))
    await connection.setLocalDescription(await connection.createAnswer())
    await describe(connection, pipe)
    pipe.send(await done)
    await take(pipe)
    await connection.close()


async def send(pipe, size):
    connection = RTCPeerConnection()
    channel = connection.createDataChannel("bench")
    opened = asyncio.Event()
    room = asyncio.Event()
    channel.bufferedAmountLowThreshold = MOST_BUFFERED // 2
    channel.on("open", opened.set)
    channel.on("bufferedamountlow", room.set)
    await connection.setLocalDescription(await connection.createOffer())
    await describe(connection, pipe)
    await connection.setRemoteDescription(RTCSessionDescription(*await take(pipe)))
    await opened.wait()
    started, used = time.monotonic(), cpu()
    left = size
    while left > 0:
        channel.send(MESSAGE[: min(left, len(MESSAGE))])
        left -= len(MESSAGE)
        while channel.bufferedAmount > MOST_BUFFERED:
            room.clear()
            await room.wait()
    theirs = await take(pipe)
    took = {"seconds": time.monotonic() - started, "cpu_seconds": cpu() - used + theirs}
    print(json.dumps(took), flush=True)
    pipe.send(None)
    await connection.close()


def main():
    size = int(sys.argv[1])
    ours, theirs = multiprocessing.Pipe()
    other = multiprocessing.Process(target=lambda: asyncio.run(receive(theirs, size)), daemon=True)
    other.start()
    asyncio.run(send(ours, size))
    other.join(10)


main()
