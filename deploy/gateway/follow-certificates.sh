#!/bin/sh
# Has nginx read its certificates again whenever they have changed, without a request failing for it. The nginx image
# runs this before nginx (/docker-entrypoint.d), which then takes the place of the process that started it.
set -eu

certificates() {
    cat "$FRONT_DOOR_CERTIFICATE" "$FRONT_DOOR_KEY" \
        "$FRONT_DOOR_CLIENT_CERTIFICATE" "$FRONT_DOOR_CLIENT_KEY" "$FRONT_DOOR_CA" 2>&1 | cksum
}

nginx=$PPID
seen=$(certificates)
(
    while sleep "${FRONT_DOOR_LOOK_EVERY_S:-30}"; do
        found=$(certificates)
        [ "$found" = "$seen" ] || kill -HUP "$nginx" || exit 0
        seen=$found
    done
) &
