# phalanx with StarCraft II and SMAC (docs/smac.md), on top of the image of docker/Dockerfile:
#     docker build -f docker/smac.Dockerfile -t phalanx:smac --build-arg SC2_PASSWORD=… .
#
# The game's archive opens with the password that Blizzard gives to whoever accepts its licence, at
# https://github.com/Blizzard/s2client-proto#downloads: giving it here is accepting it. The game is some gigabytes.
ARG BASE=phalanx

FROM debian:stable-slim AS game
RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates curl git unzip
# 4.10 is what most results were made with, those of SMAC's paper with SC2.4.6.2.69232.zip.
ARG SC2_ARCHIVE=https://blzdistsc2-a.akamaihd.net/Linux/SC2.4.10.zip
ARG SC2_PASSWORD
RUN test -n "$SC2_PASSWORD" || { echo "give --build-arg SC2_PASSWORD=…, see the top of this file" >&2; exit 1; } \
    && curl --fail --location --output /tmp/game.zip "$SC2_ARCHIVE" \
    && unzip -q -P "$SC2_PASSWORD" /tmp/game.zip -d /opt \
    && rm /tmp/game.zip
# The maps are in the repository only: pip leaves them out.
ARG SMAC_COMMIT=d6aab33
RUN git clone https://github.com/oxwhirl/smac.git /opt/smac \
    && git -C /opt/smac checkout "$SMAC_COMMIT" \
    && mkdir -p /opt/StarCraftII/Maps \
    && cp -r /opt/smac/smac/env/starcraft2/maps/SMAC_Maps /opt/StarCraftII/Maps/

FROM ${BASE}
USER root
COPY --from=game /opt/smac /opt/smac
RUN pip install pys2clientprotocol==1.0.2 absl-py mpyq portpicker requests websocket-client \
    && pip install --no-deps pysc2==4.0.0 \
    && pip install --no-deps /opt/smac
COPY --from=game --chown=phalanx /opt/StarCraftII /opt/StarCraftII
ENV SC2PATH=/opt/StarCraftII
USER phalanx
