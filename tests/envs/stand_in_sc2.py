"""An executable in the place of StarCraft II: speaks its protocol, knows nothing of its rules.

Takes `-listen HOST -port PORT` and serves a websocket at /sc2api. The "map" that a game is created with is JSON, as
`map_file` writes it. A battle is as simple as can be; when nobody is left, the units come anew, as SMAC's maps have it.
`STAND_IN_FAULT` can hold JSON: {"what": "crash" | "hang", "after": steps, "token": path}; it happens once, to the first
process that gets so far and creates the file `token`. Needs s2clientprotocol.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
import math
import os
import random
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Any

MAP_SIZE = 32
HEALTH, SHOT, BITE, RANGE = 45.0, 9.0, 2.0, 6.0
MOVE, ATTACK = 16, 23  # the game's numbers of these abilities; others do nothing
VERSION = "4.10.0.75689"


def map_file(path: Path, allies: list[tuple[int, int]], enemies: list[tuple[int, int]]) -> None:
    """Writes a map: (type, count) of both sides."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"allies": allies, "enemies": enemies}))


class Battle:
    """Units by tag; nobody has shields."""

    def __init__(self, sides: dict[str, list[tuple[int, int]]], seed: int) -> None:
        self._sides, self._random, self._next = sides, random.Random(seed), 0
        self.units: dict[int, dict[str, Any]] = {}
        self.orders: dict[int, Any] = {}
        self.loop = 0
        self._spawn()

    def _spawn(self) -> None:
        for owner, side in ((1, "allies"), (2, "enemies")):
            for kind, count in self._sides[side]:
                for _ in range(count):
                    self._next += 1
                    place = [16.0 + (owner - 1) * 4 + self._random.random(), 12.0 + 8 * self._random.random()]
                    self.units[self._next] = {"owner": owner, "kind": kind, "place": place, "health": HEALTH}

    def step(self, count: int) -> None:
        self.loop += count
        if not self.units:
            self._spawn()
        for tag, order in self.orders.items():
            if tag in self.units and order.ability_id == MOVE:
                target = order.target_world_space_pos
                self.units[tag]["place"] = [min(31.0, max(1.0, target.x)), min(31.0, max(1.0, target.y))]
            elif tag in self.units and order.ability_id == ATTACK:
                self._hit(tag, order.target_unit_tag, SHOT)
        self.orders.clear()
        for tag in [tag for tag, unit in self.units.items() if unit["owner"] == 2]:
            near = [t for t, unit in self.units.items() if unit["owner"] == 1 and self._distance(t, tag) <= RANGE]
            if near:
                self._hit(tag, self._random.choice(near), BITE)
        self.units = {tag: unit for tag, unit in self.units.items() if unit["health"] > 0}

    def _hit(self, tag: int, target: int, damage: float) -> None:
        if target in self.units and self._distance(tag, target) <= RANGE:
            self.units[target]["health"] -= damage

    def _distance(self, a: int, b: int) -> float:
        return math.dist(self.units[a]["place"], self.units[b]["place"])


class Game:
    """Answers to requests."""

    def __init__(self) -> None:
        self.pb: Any = importlib.import_module("s2clientprotocol.sc2api_pb2")
        self.status: int = self.pb.launched
        self.battle: Battle | None = None
        self.steps = 0
        self.fault = json.loads(os.environ.get("STAND_IN_FAULT", "null"))

    def answer(self, request: Any) -> Any:
        kind = request.WhichOneof("request")
        response = self.pb.Response(id=request.id)
        getattr(self, f"_{kind}")(getattr(request, kind), getattr(response, kind))
        getattr(response, kind).SetInParent()
        response.status = self.status
        return response

    def _ping(self, request: Any, response: Any) -> None:
        response.game_version, response.base_build = VERSION, 75689

    def _create_game(self, request: Any, response: Any) -> None:
        self.battle = Battle(json.loads(request.local_map.map_data), request.random_seed)
        self.status = self.pb.init_game

    def _join_game(self, request: Any, response: Any) -> None:
        response.player_id = 1
        self.status = self.pb.in_game

    def _game_info(self, request: Any, response: Any) -> None:
        raw = response.start_raw
        for size in (raw.map_size, raw.pathing_grid.size, raw.terrain_height.size, raw.playable_area.p1):
            size.x = size.y = MAP_SIZE
        raw.playable_area.p0.x = raw.playable_area.p0.y = 0
        raw.pathing_grid.bits_per_pixel, raw.pathing_grid.data = 1, b"\xff" * (MAP_SIZE**2 // 8)
        raw.terrain_height.bits_per_pixel, raw.terrain_height.data = 8, b"\x7f" * MAP_SIZE**2

    def _observation(self, request: Any, response: Any) -> None:
        assert self.battle is not None
        response.observation.game_loop = self.battle.loop
        for tag, unit in self.battle.units.items():
            shown = response.observation.raw_data.units.add(
                tag=tag, unit_type=unit["kind"], owner=unit["owner"], radius=0.375
            )
            shown.pos.x, shown.pos.y = unit["place"]
            shown.health, shown.health_max = unit["health"], HEALTH

    def _action(self, request: Any, response: Any) -> None:
        assert self.battle is not None
        for action in request.actions:
            command = action.action_raw.unit_command
            self.battle.orders |= dict.fromkeys(command.unit_tags, command)

    def _step(self, request: Any, response: Any) -> None:
        assert self.battle is not None
        self.steps += 1
        self._fail()
        self.battle.step(request.count)

    def _debug(self, request: Any, response: Any) -> None:
        assert self.battle is not None
        for command in request.debug:
            for tag in command.kill_unit.tag:
                self.battle.units.pop(tag, None)

    def _save_replay(self, request: Any, response: Any) -> None:
        response.data = f"{self.steps} steps".encode()

    def _quit(self, request: Any, response: Any) -> None:
        sys.exit()

    def _fail(self) -> None:
        if self.fault is None or self.steps < self.fault["after"]:
            return
        try:
            os.close(os.open(self.fault["token"], os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        if self.fault["what"] == "hang":
            time.sleep(600)
        os._exit(1)


# ---- the websocket (RFC 6455), as far as it is needed


def shake_hands(connection: socket.socket) -> None:
    text = b""
    while not text.endswith(b"\r\n\r\n"):
        text += connection.recv(4096)
    lines = text.decode().split("\r\n")
    assert lines[0].split()[1] == "/sc2api"
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    key = fields["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
    connection.sendall(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept}\r\n\r\n".encode()
    )


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        if not (more := connection.recv(count - len(data))):
            sys.exit()
        data += more
    return data


def receive(connection: socket.socket) -> bytes:
    """One message; whether it says that it is text or binary does not matter: pysc2 sends bytes as text."""
    first, second = _exactly(connection, 2)
    if first & 0x0F == 8:  # the other side closes
        sys.exit()
    length = second & 0x7F
    if length >= 126:
        (length,) = struct.unpack("!H" if length == 126 else "!Q", _exactly(connection, 2 if length == 126 else 8))
    mask, data = _exactly(connection, 4), _exactly(connection, length)
    key = (mask * (length // 4 + 1))[:length]
    return (int.from_bytes(data, "big") ^ int.from_bytes(key, "big")).to_bytes(length, "big")


def send(connection: socket.socket, data: bytes) -> None:
    length = len(data)
    if length < 126:
        head = bytes((0x82, length))
    else:
        head = struct.pack("!BBH", 0x82, 126, length) if length < 2**16 else struct.pack("!BBQ", 0x82, 127, length)
    connection.sendall(head + data)


def main() -> None:
    arguments = dict(zip(sys.argv[1:], sys.argv[2:], strict=False))
    game = Game()
    with socket.create_server((arguments["-listen"], int(arguments["-port"]))) as server:
        connection, _ = server.accept()
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            shake_hands(connection)
            while True:
                request = game.pb.Request.FromString(receive(connection))
                send(connection, game.answer(request).SerializeToString())


if __name__ == "__main__":
    main()
