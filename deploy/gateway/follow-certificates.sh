#!/bin/sh
# Has nginx read its certificates again whenever they have changed, without a request failing for it. The nginx image
# runs this before nginx (/docker-entrypoint.d), in a pipeline that has ended when nginx runs: its pid file says who it is.
set -eu

certificates() {
    cat "$FRONT_DOOR_CERTIFICATE" "$FRONT_DOOR_KEY" \
        "$FRONT_DOOR_CLIENT_CERTIFICATE" "$FRONT_DOOR_CLIENT_KEY" "$FRONT_DOOR_CA" 2>&1 | cksum
}

tell_nginx() {
    kill -HUP "$(cat "$FRONT_DOOR_RUN_DIR/nginx.pid")"
} 2> /dev/null

seen=$(certificates)
(
    while sleep "${FRONT_DOOR_LOOK_EVERY_S:-30}"; do
        found=$(certificates)
        [ "$found" != "$seen" ] || continue
        # Perhaps it is not up yet, and has read the old ones all the same: it is told the next time.
        tell_nginx || continue
        seen=$found
        printf '{"event":"certificates_changed","service":"front_door","level":"info","time":"%s"}\n' \
            "$(date -u +%Y-%m-%dT%H:%M:%S+00:00)"
    done
) &
