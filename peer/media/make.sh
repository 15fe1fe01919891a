#!/bin/sh
# Makes the clip that `--video test` and `--audio test` send: ten seconds of a test picture with a running timer in
# VP8, and of a tone that swells once a second in Opus. Needs ffmpeg with libvpx and libopus.
set -eu
cd "$(dirname "$0")"
ffmpeg -hide_banner -loglevel error -y -f lavfi -i "testsrc=duration=10:size=320x180:rate=15" \
    -c:v libvpx -b:v 120k -minrate 60k -maxrate 160k -g 15 -deadline good -cpu-used 0 -auto-alt-ref 0 \
    -fflags +bitexact -flags:v +bitexact -f ivf test.ivf
ffmpeg -hide_banner -loglevel error -y -f lavfi -i "sine=frequency=440:beep_factor=4:duration=10:sample_rate=48000" \
    -c:a libopus -b:a 24k -ac 2 -frame_duration 20 -fflags +bitexact -flags:a +bitexact -f ogg test.ogg
ls -l test.ivf test.ogg
